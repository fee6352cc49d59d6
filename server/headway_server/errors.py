"""The server's own errors, added to the tree of `headway_core.errors`.

Refused
├── RequestInvalid          fields are out of bounds, all of them named
├── RequestMalformed        the bytes are no message of the type
└── FilterRequired          a replay that names nothing
Unavailable
├── ServerDraining          this server goes away, others answer
└── SlowReader              a stream's reader did not read for too long
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from headway_core.errors import Refused, Unavailable


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is out of bounds: its path in the request, and what it must be."""

    field: str
    description: str


class RequestInvalid(Refused):
    """Fields of a request are out of bounds, all violations together."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{item.field}: {item.description}" for item in violations))
        self.violations = tuple(violations)


class RequestMalformed(Refused):
    """The bytes are no well-formed message of the request's type."""


class FilterRequired(Refused):
    """A replay names neither a job nor a filter, and does not say `allow_all`."""

    def __init__(self) -> None:
        super().__init__("name a job or a filter; allow_all replays every dead letter")


class ServerDraining(Unavailable):
    """This server is going away."""

    def __init__(self) -> None:
        super().__init__("this server is going away; call again, another one answers")


class SlowReader(Unavailable):
    """A stream's reader did not read for `patience`."""

    def __init__(self, *, patience: timedelta) -> None:
        super().__init__(
            f"nothing was read for {patience.total_seconds():g} s; "
            "watch again from the last sequence you have"
        )
