"""How a run can end: a closed set."""

from dataclasses import dataclass
from datetime import timedelta

from headway_core.content import Content
from headway_core.job import JobError


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned. None: it returned nothing."""

    result: Content | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or returned what cannot be stored. Spends an attempt."""

    error: JobError


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The attempt ran longer than it may. Spends an attempt."""

    timeout: timedelta
    unstoppable: bool = False
    """It ignored its cancellation and its process had to be ended: next time in a child process."""
    message: str = ""
    """What to say instead of the timeout, for a run that blocked its process without having one."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The run's process died, and nobody else's run with it. Spends the crash budget."""

    message: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The run ended through no fault that can be charged to it. Spends nothing."""

    message: str
    suspect: bool = False
    """It died in company: the next run is kept apart, so that its death can be charged."""


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The handler asked to be run again later. Spends nothing."""

    after: timedelta


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run stopped because a cancel request stood. Spends nothing."""

    message: str


Outcome = Succeeded | Failed | TimedOut | WorkerLost | Interrupted | Snoozed | Cancelled
