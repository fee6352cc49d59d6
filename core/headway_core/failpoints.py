"""Named places at which a test makes a process fail: inactive, and almost free, in production.

`await failpoint("after_claim_commit")` does nothing unless HEADWAY_FAILPOINTS was set when the
process started. That is a plan, or the path of a file that holds one, which is read again at each
hit, so that a test arms and disarms while the process runs:

    after_claim_commit=kill, after_publish=pause:5@2, heartbeat_skip=raise@1-3

ACTION is `log`, `raise` (StoreUnavailable), `pause:SECONDS` (this call alone waits), `freeze`
(SIGSTOP, the whole process), `kill` (SIGKILL); `@N` or `@N-M` restrict it to those hits. Each hit
of a named failpoint is logged before anything happens. With a file, hits are counted over all
processes that share it, each as a file `NAME.NUMBER` beside it that holds the process ID.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Final

import structlog

from headway_core.errors import Defect, StoreUnavailable

VARIABLE: Final = "HEADWAY_FAILPOINTS"
HITS_MAX: Final = 100_000

log = structlog.get_logger(__name__)


class Action(StrEnum):
    """What happens at a hit."""

    LOG = "log"
    RAISE = "raise"
    PAUSE = "pause"
    FREEZE = "freeze"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Failure:
    """What one failpoint does, and at which of its hits, the first being 1."""

    action: Action
    seconds: float = 0.0
    first: int = 1
    last: int = HITS_MAX


async def failpoint(name: str) -> None:
    """Fail here, if a test wants it. Raises StoreUnavailable if it wants that."""
    if _ARMED is not None:
        await _ARMED.reach(name)


class Failpoints:
    """The failpoints of one process."""

    def __init__(self, setting: str) -> None:
        """`setting` is a plan, or the absolute path of a file with one."""
        self._file = Path(setting) if setting.startswith("/") else None
        self._plan = parse("" if self._file else setting)
        self._counts: dict[str, int] = {}

    async def reach(self, name: str) -> None:
        """Do what the plan says about this place."""
        plan = parse(_read(self._file)) if self._file else self._plan
        failure = plan.get(name)
        if failure is None:
            return
        number = self._count(name)
        strikes = failure.first <= number <= failure.last
        log.warning("failpoint", name=name, hit=number, action=failure.action, strikes=strikes)
        if strikes:
            await _strike(name, failure)

    def _count(self, name: str) -> int:
        if self._file is None:
            self._counts[name] = self._counts.get(name, 0) + 1
            return self._counts[name]
        known = self._counts.get(name, 0)
        if not self._file.with_name(f"{name}.{known}").exists():
            known = 0  # armed anew
        for number in count(known + 1):
            try:
                descriptor = os.open(
                    self._file.with_name(f"{name}.{number}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY
                )
            except FileExistsError:
                continue
            os.write(descriptor, str(os.getpid()).encode())
            os.close(descriptor)
            self._counts[name] = number
            return number
        raise AssertionError("unreachable")


def parse(plan: str) -> Mapping[str, Failure]:
    """Read a plan. Raises Defect, for only our own tests write one."""
    failures = {}
    for item in filter(None, map(str.strip, plan.split(","))):
        name, _, what = item.partition("=")
        what, _, hits = what.partition("@")
        action, _, seconds = what.partition(":")
        first, _, last = hits.partition("-")
        try:
            failures[name] = Failure(
                Action(action),
                seconds=float(seconds or 0),
                first=int(first or 1),
                last=int(last or first or HITS_MAX),
            )
        except ValueError as error:
            raise Defect(f"{VARIABLE} holds {item!r}, which is no failpoint") from error
    return failures


async def _strike(name: str, failure: Failure) -> None:
    match failure.action:
        case Action.LOG:
            pass
        case Action.RAISE:
            raise StoreUnavailable(f"failpoint {name}")
        case Action.PAUSE:
            await asyncio.sleep(failure.seconds)
        case Action.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _armed(setting: str) -> Failpoints | None:
    """What the process is started with; a wrong plan ends it, before it has done anything."""
    try:
        return Failpoints(setting) if setting else None
    except Defect as error:
        sys.stderr.write(f"headway: {error}\n")
        raise SystemExit(2) from None


_ARMED: Final = _armed(os.environ.get(VARIABLE, ""))
