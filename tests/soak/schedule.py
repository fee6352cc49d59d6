"""What goes wrong, where, when and for how long: a pure function of the seed."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

WORKERS: Final = ("worker-2", "worker-3")
"""Those that are struck. `worker-1` and `server-1` live through everything, and show leaks."""
SERVERS: Final = ("server-2",)
POSTGRES: Final = ("postgres",)
RABBITMQ: Final = ("rabbitmq",)

FIRST_SECONDS: Final = 4.0
REST_SECONDS: Final = (2.0, 12.0)
"""From the end of one fault to the next: at least and at most."""
ON_TOP_CHANCE: Final = 0.25
ON_TOP_SECONDS: Final = (0.1, 1.5)
"""How soon, at that chance, the next one comes on top of one that still holds."""


class Kind(StrEnum):
    """A fault."""

    EXECUTOR_KILL = "executor.kill"
    EXECUTOR_FREEZE = "executor.freeze"
    EXECUTOR_TERM = "executor.term"
    SUPERVISOR_KILL = "supervisor.kill"
    SUPERVISOR_FREEZE = "supervisor.freeze"
    SUPERVISOR_TERM = "supervisor.term"
    WORKER_KILL = "worker.kill"
    WORKER_FREEZE = "worker.freeze"
    WORKER_TERM = "worker.term"
    SERVER_KILL = "server.kill"
    SERVER_FREEZE = "server.freeze"
    SERVER_TERM = "server.term"
    POSTGRES_STOP = "postgres.stop"
    """At once, as `pg_ctl stop -m immediate`, and recovered at its start."""
    POSTGRES_FREEZE = "postgres.freeze"
    POSTGRES_RESET = "postgres.reset"
    """A RST on every connection to it."""
    RABBITMQ_KILL = "rabbitmq.kill"
    RABBITMQ_WIPE = "rabbitmq.wipe"
    """Killed, and started again without its data."""
    RABBITMQ_FREEZE = "rabbitmq.freeze"
    RABBITMQ_RESET = "rabbitmq.reset"
    RABBITMQ_PURGE = "rabbitmq.purge"
    """The work queue is emptied."""
    RABBITMQ_DELETE = "rabbitmq.delete"
    """The work queue is deleted."""
    RABBITMQ_ALARM = "rabbitmq.alarm"
    """A disk alarm: it takes no publish."""

    @property
    def part(self) -> str:
        """What is struck."""
        return self.value.partition(".")[0]

    @property
    def deed(self) -> str:
        """What is done to it."""
        return self.value.partition(".")[2]


@dataclass(frozen=True, slots=True)
class Nature:
    """Whom a kind strikes, and for how many seconds at least and at most."""

    targets: tuple[str, ...]
    hold: tuple[float, float] = (0.0, 0.0)


# Frozen longer than a lease at times, and at times shorter.
NATURES: Final = {
    Kind.EXECUTOR_KILL: Nature(WORKERS),
    Kind.EXECUTOR_FREEZE: Nature(WORKERS, (1, 15)),
    Kind.EXECUTOR_TERM: Nature(WORKERS),
    Kind.SUPERVISOR_KILL: Nature(WORKERS),
    Kind.SUPERVISOR_FREEZE: Nature(WORKERS, (1, 15)),
    Kind.SUPERVISOR_TERM: Nature(WORKERS),
    Kind.WORKER_KILL: Nature(WORKERS, (0, 5)),
    Kind.WORKER_FREEZE: Nature(WORKERS, (1, 15)),
    Kind.WORKER_TERM: Nature(WORKERS),
    Kind.SERVER_KILL: Nature(SERVERS, (0, 5)),
    Kind.SERVER_FREEZE: Nature(SERVERS, (1, 15)),
    Kind.SERVER_TERM: Nature(SERVERS),
    Kind.POSTGRES_STOP: Nature(POSTGRES, (0, 8)),
    Kind.POSTGRES_FREEZE: Nature(POSTGRES, (0.5, 8)),
    Kind.POSTGRES_RESET: Nature(POSTGRES),
    Kind.RABBITMQ_KILL: Nature(RABBITMQ, (0, 8)),
    Kind.RABBITMQ_WIPE: Nature(RABBITMQ, (0, 4)),
    Kind.RABBITMQ_FREEZE: Nature(RABBITMQ, (0.5, 15)),
    Kind.RABBITMQ_RESET: Nature(RABBITMQ),
    Kind.RABBITMQ_PURGE: Nature(RABBITMQ),
    Kind.RABBITMQ_DELETE: Nature(RABBITMQ),
    Kind.RABBITMQ_ALARM: Nature(RABBITMQ, (2, 12)),
}


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault to come."""

    at: float
    """Seconds from the beginning of the soak."""
    kind: Kind
    target: str
    hold: float
    """Seconds that it lasts; after that it is undone."""
    choice: int
    """Which executor, counted modulo those there are."""


def schedule(
    seed: int,
    *,
    seconds: float,
    kinds: Collection[Kind] = frozenset(Kind),
    rest: tuple[float, float] = REST_SECONDS,
) -> tuple[Strike, ...]:
    """The faults of a soak of so many seconds, in the order of their times.

    Every kind comes once before any comes twice. Two strikes may hold at a time, but never at the
    same target.
    """
    random = Random(seed)
    strikes: list[Strike] = []
    busy_until: dict[str, float] = {}
    deck: list[Kind] = []
    at = FIRST_SECONDS
    while True:
        if not deck:
            deck = sorted(kinds)
            random.shuffle(deck)
        kind = deck.pop()
        nature = NATURES[kind]
        target = random.choice(nature.targets)
        hold = round(random.uniform(*nature.hold), 2)
        at = round(max(at, busy_until.get(target, 0.0)), 2)
        if at + hold > seconds:
            return tuple(strikes)
        strikes.append(Strike(at, kind, target, hold, random.randrange(60)))
        busy_until[target] = at + hold + rest[0]
        if random.random() < ON_TOP_CHANCE:
            at += random.uniform(*ON_TOP_SECONDS)
        else:
            at += hold + random.uniform(*rest)


def digest(strikes: Collection[Strike]) -> str:
    """Eight characters that are the same for the same faults."""
    return hashlib.sha256(repr(tuple(strikes)).encode()).hexdigest()[:8]
