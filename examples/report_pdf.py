"""A PDF report with page-by-page progress: the airports of one country, as a table.

reportlab blocks, so the handler is a plain `def` and runs in a thread. It has no steps: drawing
again after a crash costs little and writes the same bytes to the same file.
"""

import unicodedata
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from airportsdata import Airport
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from examples.airports import AIRPORTS_MAX, airports_of
from examples.fields import Fields
from examples.output import job_directory, written_whole
from headway_worker import Context, Jobs

jobs = Jobs()

ROWS_PER_PAGE = 52
ROW_HEIGHT, MARGIN = 14, 40
WIDTH, HEIGHT = A4
TEXT_SIZE, TITLE_SIZE = 7.5, 13
STRIPE = HexColor(0xEEF2F7)
COLUMNS = (("ICAO", 40), ("IATA", 75), ("Name", 105), ("City", 305), ("Region", 415), ("Feet", 530))
"""Heading and left edge of each column, in points."""
REGULAR, BOLD = TTFont("Vera", "Vera.ttf"), TTFont("VeraBd", "VeraBd.ttf")
pdfmetrics.registerFont(REGULAR)
pdfmetrics.registerFont(BOLD)


@jobs.handler("report.pdf", timeout=timedelta(minutes=10))
def report(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Draw the report of `{"country": "FR"}`; `limit` takes only the first so many airports."""
    fields = Fields(payload, known=("country", "limit"))
    country = fields.text("country")
    limit = fields.integer("limit", default=AIRPORTS_MAX, minimum=1, maximum=AIRPORTS_MAX)

    airports = airports_of(country)[:limit]
    path = job_directory(ctx) / f"airports-{country}.pdf"
    with written_whole(path) as partial:
        pages = draw(ctx, airports, title=f"Airports in {country}", path=partial)
    size_bytes = path.stat().st_size
    ctx.logger.info("report_written", pages=pages, size_bytes=size_bytes)
    return {
        "path": str(path),
        "pages": pages,
        "airports": len(airports),
        "size_bytes": size_bytes,
    }


def draw(ctx: Context, airports: Sequence[Airport], *, title: str, path: Path) -> int:
    """Write the PDF to path, a page at a time; returns the number of pages."""
    # invariant: no time of day in the file, so that a re-run writes the same bytes.
    canvas = Canvas(str(path), pagesize=A4, invariant=1)
    canvas.setTitle(title)
    pages = -(-len(airports) // ROWS_PER_PAGE)
    for page in range(1, pages + 1):
        ctx.raise_if_cancelled()
        rows = airports[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]
        draw_page(canvas, rows, title=title, footer=f"page {page} of {pages}")
        ctx.progress(page, pages, step="render", message=f"{rows[0]['icao']} to {rows[-1]['icao']}")
    canvas.save()
    return pages


def draw_page(canvas: Canvas, rows: Sequence[Airport], *, title: str, footer: str) -> None:
    y = HEIGHT - MARGIN
    canvas.setFont(BOLD.fontName, TITLE_SIZE)
    canvas.drawString(MARGIN, y, title)
    y -= 2 * ROW_HEIGHT
    draw_row(canvas, [heading for heading, _ in COLUMNS], y=y, font=BOLD)
    for number, airport in enumerate(rows):
        y -= ROW_HEIGHT
        if number % 2 == 0:
            canvas.setFillColor(STRIPE)
            canvas.rect(MARGIN - 4, y - 4, WIDTH - 2 * MARGIN + 8, ROW_HEIGHT, stroke=0, fill=1)
            canvas.setFillColor("black")
        draw_row(canvas, cells(airport), y=y, font=REGULAR)
    canvas.setFont(REGULAR.fontName, TEXT_SIZE)
    canvas.drawRightString(WIDTH - MARGIN, MARGIN / 2, footer)
    canvas.showPage()


def draw_row(canvas: Canvas, texts: Sequence[str], *, y: float, font: TTFont) -> None:
    canvas.setFont(font.fontName, TEXT_SIZE)
    edges = [left for _, left in COLUMNS] + [WIDTH - MARGIN]
    for text, left, right in zip(texts, edges, edges[1:], strict=False):
        canvas.drawString(left, y, fitting(drawable(text, font), right - left - 4, font))


def cells(airport: Airport) -> list[str]:
    return [
        airport["icao"],
        airport["iata"],
        airport["name"],
        airport["city"],
        airport["subd"],
        f"{airport['elevation']:.0f}",
    ]


def fitting(text: str, width: float, font: TTFont) -> str:
    """The text, cut with an ellipsis if it is wider than width, in points."""
    while pdfmetrics.stringWidth(text, font.fontName, TEXT_SIZE) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text


def drawable(text: str, font: TTFont) -> str:
    """The text, with letters that the font lacks (`ș`) drawn without their marks (`s`)."""
    glyphs = font.face.charToGlyph
    return "".join(
        letter if ord(letter) in glyphs else unicodedata.normalize("NFKD", letter)[0]
        for letter in text
    )
