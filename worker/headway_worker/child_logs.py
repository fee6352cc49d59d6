"""The log lines of a child process, set up when the first one is written.

structlog and the settings take four times as long to import as all else that a child needs, and
most children have nothing to log.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

LEVELS: Final = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR"}


class ChildLogs:
    """Our lines, those of `ctx.logger`, and those that user code writes through `logging`."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        """`facts` of the job are put on every line."""
        self._facts = dict(facts)
        self._deferred = _Deferred(self)
        self._configured = False

    def prepare(self) -> None:
        """Catch the first line, whoever writes it. Call it when user code has been imported."""
        if "structlog" in sys.modules:  # user code has it, and expects it to be set up
            self.configure()
            return
        root = logging.getLogger()
        root.addHandler(self._deferred)
        root.setLevel(LEVELS.get(os.environ.get("HEADWAY_LOG_LEVEL", ""), "INFO"))

    def configure(self) -> None:
        """Set up logging as in an executor."""
        if self._configured:
            return
        self._configured = True
        from headway_core import logs
        from headway_core.settings import load
        from headway_worker.settings import WorkerSettings

        root = logging.getLogger()
        root.removeHandler(self._deferred)
        logs.configure(load(WorkerSettings), service="headway-worker")
        for handler in root.handlers:
            handler.addFilter(self._add_facts)

    def get(self, name: str) -> Any:
        """A structlog logger that is made when it is first used."""
        return _LazyLogger(self, name)

    def made(self, name: str) -> Any:
        """Make the logger."""
        import structlog

        self.configure()
        return structlog.get_logger(name).bind(**self._facts)

    def _add_facts(self, record: logging.LogRecord) -> bool:
        for name, value in self._facts.items():
            record.__dict__.setdefault(name, value)
        return True


class _LazyLogger:
    def __init__(self, logs: ChildLogs, name: str) -> None:
        self._logs = logs
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logs.made(self._name), name)


class _Deferred(logging.Handler):
    def __init__(self, logs: ChildLogs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        self._logs.configure()
        logging.getLogger(record.name).handle(record)
