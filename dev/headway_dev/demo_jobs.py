"""The jobs of `headway demo`: what is submitted, and what each has to show at its end."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway import Event, EventType, Job, JobState

FLAKY_FAILURES = 2
PRIMES_BELOW = 20_000_000
PRIMES_FOUND = 1_270_607
COUNTRY = "US"

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """A job to submit. `words` says its result in short; `starts` is how often it has to start."""

    type: str
    payload: dict[str, object]
    words: Callable[[Result], str]
    starts: int = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """A job at its end, with its whole history."""

    planned: Planned
    job: Job
    events: tuple[Event, ...]

    @property
    def name(self) -> str:
        """Its type and ID, for messages."""
        return f"{self.job.type} {self.job.id}"

    @property
    def result(self) -> Result:
        """What it returned; empty if it did not."""
        return self.job.result if isinstance(self.job.result, dict) else {}

    def count(self, kind: EventType) -> int:
        """How often this happened."""
        return sum(event.type is kind for event in self.events)

    @property
    def attempts(self) -> int:
        """Every time it started, those before a replay included."""
        return self.count(EventType.STARTED)

    @property
    def wait_seconds(self) -> float | None:
        """From the submit to its first start."""
        times = {event.type: event.event_time for event in reversed(self.events)}
        begin, end = times.get(EventType.SUBMITTED), times.get(EventType.STARTED)
        return (end - begin).total_seconds() if begin and end else None

    @property
    def run_seconds(self) -> float:
        """How long it ran, all its runs together."""
        seconds, started = 0.0, None
        for event in self.events:
            if event.type is EventType.STARTED:
                started = event.event_time
            elif started and event.event_time and event.job.state is not JobState.RUNNING:
                seconds += (event.event_time - started).total_seconds()
                started = None
        return seconds

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its result names."""
        return tuple(_paths(self.job.result))


def plan(missing_file: str) -> list[Planned]:
    """Every job of the demo; `missing_file` is what the poison one needs and does not find."""
    return [
        Planned("report.pdf", {"country": COUNTRY, "limit": 6_000}, _report),
        Planned("image.thumbnails", {}, _thumbnails),
        Planned("airports.import", {"chunk_rows": 2_000}, _rows),
        Planned("video.transcode", {"clip": "bigbuckbunny", "repeat": 2}, _video),
        Planned("demo.primes", {"below": PRIMES_BELOW}, _primes),
        Planned("hello", {"name": "Ada"}, _greeting),
        Planned(
            "demo.flaky",
            {"failures": FLAKY_FAILURES},
            lambda result: f"answered in attempt {result['attempt']}",
            starts=FLAKY_FAILURES + 1,
        ),
        # Three attempts of the handler's own policy, and one more after the replay.
        Planned(
            "demo.poison",
            {"needs": missing_file},
            lambda result: f"found {Path(result['path']).name} after the replay",
            starts=4,
        ),
    ]


def bytes_in_words(count: float) -> str:
    """`27 B`, `312 kB`, `1.4 MB`."""
    if count >= 1e6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.0f} kB" if count >= 1e3 else f"{count:.0f} B"


def _report(result: Result) -> str:
    size = bytes_in_words(result["size_bytes"])
    return f"{result['pages']} pages, {result['airports']:,} airports, {size}"


def _thumbnails(result: Result) -> str:
    size = bytes_in_words(sum(file["size_bytes"] for file in result["files"]))
    return f"{result['pictures']} photographs, {len(result['files'])} thumbnails, {size}"


def _rows(result: Result) -> str:
    return f"{result['rows']:,} rows in {result['table']}"


def _video(result: Result) -> str:
    return f"{result['seconds']:g} s of video, {bytes_in_words(result['size_bytes'])}"


def _primes(result: Result) -> str:
    return f"{result['primes']:,} primes below {result['below']:,}"


def _greeting(result: Result) -> str:
    return str(result["greeting"]).partition("!")[0] + "!"


def _paths(value: object) -> Iterator[Path]:
    """Every `path` in a result, wherever it stands."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "path":
                yield Path(inner)
            else:
                yield from _paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)
