"""Where aio-pika's exceptions become ours."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AMQPError,
    AuthenticationError,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from headway_core.errors import BrokerUnavailable
from headway_core.redaction import redact

REASON_CHARACTERS_MAX: Final = 300
VHOST_REFUSED: Final = (
    "the broker refuses the virtual host of HEADWAY_AMQP_URL: not there, closed to us, or full"
)


class LoginRefused(BrokerUnavailable):
    """The broker knows no such user and password."""


@contextmanager
def broker_border(action: str) -> Iterator[None]:
    """Run calls to aio-pika and nothing else; what it raises comes out as BrokerUnavailable.

    `action` says what was tried ("consume default"). A cancellation of the running task passes;
    the CancelledError that aiormq sets on the futures of a closing channel does not.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokerUnavailable(f"{action}: the channel closed") from error
    except (ProbableAuthenticationError, AuthenticationError) as error:
        text = f"{action}: the broker refuses the user or password of HEADWAY_AMQP_URL"
        raise LoginRefused(text) from error
    # aiormq also rejects futures with the bare class Exception when it knows no reason.
    except Exception as error:
        if not isinstance(error, CONNECTION_EXCEPTIONS) and type(error) is not Exception:
            raise
        raise BrokerUnavailable(f"{action}: {reason_of(error)}") from error


def reason_of(error: BaseException | None) -> str:
    """Say in one line, without secrets, what went wrong at the broker."""
    match error:
        case None:
            text = "closed"
        case InvalidFrameError() if "Connection.OpenOk" in str(error):
            # aiormq 7.2 loses the broker's own words for this.
            text = VHOST_REFUSED
        case TimeoutError():
            text = "no answer in time"
        case AMQPError() if error.args and isinstance(error.args[-1], str):
            text = error.args[-1]
        case _:
            text = str(error) or type(error).__name__
    return " ".join(redact(text).split())[:REASON_CHARACTERS_MAX]
