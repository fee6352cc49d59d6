"""Spans exported to a collector or to local files."""

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from io import TextIOBase
from pathlib import Path
from threading import Thread
from typing import IO, Final, cast

from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from headway_core.errors import SettingsInvalid
from headway_core.trace_destination import Destination

FILE_BYTES_MAX: Final = 128 * 2**20
"""Two files of this size a process: one being written, and the one before it."""
FILE_SUFFIX: Final = ".otlp.jsonl"
SPANS_WAITING_MAX: Final = 8_192
"""Ended spans that wait for their export; later ones are dropped, and the SDK says so."""
SPANS_PER_EXPORT: Final = 512
EXPORT_MILLISECONDS: Final = 500
FLUSH_SECONDS_MAX: Final = 2.0


def tracer_provider(
    service: str, destination: Destination, environ: Mapping[str, str]
) -> TracerProvider:
    """Make the provider that exports there.

    Raises SettingsInvalid if nothing can be written to the directory.
    """
    exporter: SpanExporter
    match destination:
        case "collector":
            # Imported here: it costs 60 ms, and few processes need it.
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        case Path() as files:
            _make_writable(files)
            exporter = FileSpanExporter(
                stream=cast("IO[str]", RotatingFile(trace_file(files, service)))
            )
    provider = TracerProvider(
        # Whether a trace is recorded was decided where it began (see sampling.py).
        sampler=ParentBased(ALWAYS_ON),
        resource=_resource(service, environ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=SPANS_WAITING_MAX,
            max_export_batch_size=SPANS_PER_EXPORT,
            schedule_delay_millis=EXPORT_MILLISECONDS,
        )
    )
    return provider


def shut_down(provider: TracerProvider) -> bool:
    """Export what has ended and stop, in FLUSH_SECONDS_MAX; False if time ran out."""
    # The SDK's own shutdown waits up to 30 s for a collector that does not answer.
    flusher = Thread(target=provider.shutdown, name="headway-flush-spans", daemon=True)
    flusher.start()
    flusher.join(FLUSH_SECONDS_MAX)
    return not flusher.is_alive()


def trace_file(directory: Path, service: str) -> Path:
    """Name this process's file. A process ID that comes again appends to its predecessor's."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", service)
    return directory / f"{safe}-{os.getpid()}{FILE_SUFFIX}"


class RotatingFile(TextIOBase):
    """A text file that begins anew at FILE_BYTES_MAX and keeps one predecessor, as `NAME.1`.

    Opened at the first write, so that a process that records nothing leaves no file.
    """

    def __init__(self, path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._descriptor: int | None = None
        self._size = 0

    def write(self, text: str) -> int:
        """Append a whole line; several processes never share a file, several threads never do."""
        line = text.encode()
        if self._descriptor is None:
            self._open()
        if self._size and self._size + len(line) > self._bytes_max:
            self._rotate()
        assert self._descriptor is not None
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._size += len(line)
        return len(text)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        super().close()

    def _open(self) -> None:
        # Traces name jobs and show error messages: for the owner's eyes.
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._open()


def _make_writable(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsInvalid([f"HEADWAY_TRACE_DIR cannot be made: {error.strerror}"]) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise SettingsInvalid(["HEADWAY_TRACE_DIR cannot be written to"])


def _resource(service: str, environ: Mapping[str, str]) -> Resource:
    attributes: dict[str, str | int] = {
        SERVICE_VERSION: version("headway"),
        "process.pid": os.getpid(),
    }
    if not environ.get("OTEL_SERVICE_NAME"):
        attributes[SERVICE_NAME] = service
    return Resource.create(attributes)
