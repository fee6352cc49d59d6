"""Log lines: JSON on standard error, one event a line, with the job they are about.

Event names are constants in snake case, facts are keywords:

    log.warning("lease_lapsed", worker_id=str(worker_id))

What must never be logged: payloads, results, idempotency keys, and texts of exceptions, which quote
them: of an exception our lines show the stack and the class. Passwords are taken out of the
finished line here, wherever in it they stand, but that is the second line of defence.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final, TextIO
from uuid import UUID

import structlog
from structlog.contextvars import merge_contextvars
from structlog.typing import Processor

from headway_core.redaction import hide, url_secrets
from headway_core.settings import CoreSettings, LogFormat
from headway_core.stacks import stack_of

QUIET: Final = {
    # They write a line for every frame at DEBUG, passwords and payloads included, and at ERROR
    # what broker.py reports anyway.
    "aio_pika": logging.CRITICAL,
    "aiormq": logging.CRITICAL,
    "pamqp": logging.CRITICAL,
    "asyncio": logging.WARNING,
    "asyncpg": logging.WARNING,
    "grpc": logging.WARNING,
    "opentelemetry": logging.WARNING,
    "urllib3": logging.WARNING,
}
"""The least severe lines of libraries, whatever HEADWAY_LOG_LEVEL says."""


# One variable, not structlog's four: it is set for every run, and hardly ever read.
_JOB: Final[ContextVar[Mapping[str, object]]] = ContextVar("headway_job")


def configure(settings: CoreSettings, *, service: str, stream: TextIO | None = None) -> None:
    """Set up logging for the whole process: ours, the libraries' and user code's.

    To be called once, right after the settings are loaded. `stream` is standard error if None.
    """
    stream = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    secrets = url_secrets(
        settings.database_url.get_secret_value(), settings.amqp_url.get_secret_value()
    )
    shared: list[Processor] = [
        merge_contextvars,
        add_job,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _naming(service),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _HidingFormatter(
            secrets,
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings.log_format, stream),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))


class job_context:  # noqa: N801 -- used like a function; a generator would cost every run more
    """Put a job's facts on every line that is written inside, in `asyncio.to_thread` too."""

    __slots__ = ("_facts", "_token")

    def __init__(self, *, job_id: UUID, type: str, attempt: int, trace_id: str) -> None:  # noqa: A002
        self._facts = {"job_id": job_id, "type": type, "attempt": attempt, "trace_id": trace_id}

    def __enter__(self) -> None:
        self._token = _JOB.set(self._facts)

    def __exit__(self, *_error: object) -> None:
        _JOB.reset(self._token)


class _HidingFormatter(structlog.stdlib.ProcessorFormatter):
    """Renders a line, and takes passwords out of what it rendered, tracebacks included."""

    def __init__(self, secrets: frozenset[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record), self._secrets)


def _rendering(chosen: LogFormat, stream: TextIO) -> list[Processor]:
    if chosen is LogFormat.CONSOLE or (chosen is LogFormat.AUTO and stream.isatty()):
        return [_show_exception, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    return [_show_exception, structlog.processors.JSONRenderer(default=str)]


def _show_exception(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Put the stack of an exception on the line; its text only if it was user code that logs it."""
    name = str(event.get("logger"))
    if name == "asyncio":
        # It goes on with the repr of a task's exception, or of a callback's arguments.
        event["event"] = str(event["event"]).partition("\n")[0].partition("(")[0]
    if not name.startswith("headway_") and name.partition(".")[0] not in QUIET:
        return structlog.processors.format_exc_info(logger, method, event)
    match event.pop("exc_info", None):
        case BaseException() as error:
            event["exception"] = stack_of(error)
        case (_, BaseException() as error, _):
            event["exception"] = stack_of(error)
        case None | False | (None, None, None):
            pass
        case _:
            if (current := sys.exception()) is not None:
                event["exception"] = stack_of(current)
    return event


def add_job(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Name the job inside whose `job_context` a line is written: a processor of structlog's."""
    for name, fact in _JOB.get({}).items():
        event.setdefault(name, str(fact) if isinstance(fact, UUID) else fact)
    return event


def _naming(service: str) -> Processor:
    def name(
        _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    return name
