"""Where spans go, decided without the SDK, whose import costs every process that needs none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

COLLECTOR_VARIABLES: Final = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)


Destination = Path | Literal["collector"]


def destination(directory: Path | None, environ: Mapping[str, str]) -> Destination | None:
    """Say where: files in a directory, a collector, or (None) nowhere.

    A collector (OTLP over HTTP, with all of OpenTelemetry's own variables) takes precedence over
    `directory`, where each process writes files of its own. OTEL_SDK_DISABLED=true means nowhere.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if any(environ.get(name) for name in COLLECTOR_VARIABLES):
        return "collector"
    return directory
