"""The report is a real PDF with every airport on it, page by page."""

import re
from pathlib import Path

import pytest

from examples import report_pdf
from examples.airports import airports_of
from headway_worker import PermanentError
from headway_worker.handler_errors import JobCancelled


def pages_of(path: Path) -> int:
    """Count the page objects and check that the page tree says the same."""
    content = path.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    counted = re.search(rb"/Count\s+(\d+)", content)
    assert counted is not None
    assert int(counted[1]) == pages
    return pages


def test_report_has_a_page_for_every_52_airports_and_tells_each(context) -> None:
    ctx = context(blocking=True)
    result = report_pdf.report(ctx, {"country": "FR"})
    path = Path(result["path"])
    assert result["airports"] == len(airports_of("FR")) > 400
    assert result["pages"] == pages_of(path) == -(-result["airports"] // report_pdf.ROWS_PER_PAGE)
    assert result["size_bytes"] == path.stat().st_size
    assert ctx.progress_told == [(n, result["pages"]) for n in range(1, result["pages"] + 1)]


def test_report_text_holds_every_airport(context) -> None:
    pypdf = pytest.importorskip("pypdf")
    result = report_pdf.report(context(blocking=True), {"country": "IS"})
    reader = pypdf.PdfReader(result["path"])
    assert len(reader.pages) == result["pages"]
    text = "\n".join(page.extract_text() for page in reader.pages)
    assert all(airport["icao"] in text for airport in airports_of("IS"))
    assert "Egilsstaðir Airport" in text
    assert f"page 1 of {result['pages']}" in text


def test_limit_takes_the_first_airports(context) -> None:
    result = report_pdf.report(context(blocking=True), {"country": "US", "limit": 53})
    assert (result["airports"], result["pages"]) == (53, 2)


def test_rerun_writes_the_same_bytes_to_the_same_file(context, files_left) -> None:
    first = report_pdf.report(context(blocking=True), {"country": "IS"})
    written = Path(first["path"]).read_bytes()
    assert report_pdf.report(context(blocking=True, attempt=2), {"country": "IS"}) == first
    assert Path(first["path"]).read_bytes() == written
    assert files_left() == ["airports-IS.pdf"]


@pytest.mark.parametrize("country", ["ZZ", "fr", "France", "../FR"])
def test_unknown_country_is_permanent_and_leaves_nothing(context, files_left, country) -> None:
    with pytest.raises(PermanentError, match=f"no airports in country '{country}'; expected an"):
        report_pdf.report(context(blocking=True), {"country": country})
    assert files_left() == []


def test_cancelled_report_stops_at_a_page_and_leaves_nothing(context, files_left) -> None:
    ctx = context(blocking=True, cancel_when=lambda ctx: len(ctx.progress_told) == 3)
    with pytest.raises(JobCancelled):
        report_pdf.report(ctx, {"country": "FR"})
    assert len(ctx.progress_told) == 3
    assert files_left() == []


def test_letters_that_the_font_lacks_lose_only_their_marks() -> None:
    assert report_pdf.drawable("Iași, Łódź, Zürich", report_pdf.REGULAR) == "Iasi, Łódz, Zürich"
    # Every airport there is can be drawn.
    assert report_pdf.drawable("Qǝbǝlǝ", report_pdf.REGULAR)
