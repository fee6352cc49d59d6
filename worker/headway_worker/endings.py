"""How user code ends, and why it may be told to."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from headway_worker.context import Context


class Stop(Enum):
    """Why a run was told to end."""

    CANCELLED = auto()
    """Someone asked for it."""
    TIMED_OUT = auto()
    """Its attempt's time is up."""
    DRAINED = auto()
    """The worker leaves."""
    LOST = auto()
    """It is no longer the job's own: whatever it writes changes nothing."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler returned a value."""

    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised, whatever it was."""

    error: BaseException


Ending = Returned | Raised
"""How a call of user code ended."""


def called(function: Callable[..., object], context: Context, payload: object) -> Ending:
    """Call user code and catch whatever it raises, SystemExit too."""
    try:
        return Returned(function(context, payload))
    except BaseException as error:  # noqa: BLE001 - the border to user code
        return Raised(error)


async def awaited(
    function: Callable[..., Awaitable[object]], context: Context, payload: object
) -> Ending:
    """Await user code and catch whatever it raises, SystemExit too."""
    try:
        return Returned(await function(context, payload))
    except GeneratorExit:
        raise  # the loop closes
    except BaseException as error:  # noqa: BLE001 - the border to user code
        return Raised(error)
