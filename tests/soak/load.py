"""Callers: every kind of job, at a steady rate, whatever is going on."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from functools import partial
from random import Random
from typing import Any, Final
from uuid import uuid4

from headway import (
    DeadLetterFilter,
    Event,
    HeadwayError,
    Job,
    JobState,
    Submission,
    Unavailable,
)
from headway.client import Client
from tests.soak.fleet import HANDOFF_SECONDS
from tests.soak.ledger import Ledger
from tests.soak.onlooker import UNFINISHED, Onlooker

TICK_SECONDS: Final = 0.05
CALLS_MAX: Final = 200
WATCHES_MAX: Final = 50
BACKLOG_MAX: Final = 2_000
"""Unfinished jobs; beyond that callers hold back."""
BATCH_JOBS: Final = 10
BURST_JOBS: Final = 300
BURST_JOB_SECONDS: Final = 0.2
PAUSE_SECONDS: Final = (0.1, 0.6)
FINISH_SECONDS_MAX: Final = 90.0
REPLAY_SECONDS: Final = 20.0
RETRY_SECONDS_MAX: Final = 300.0
CANCEL_AFTER_SECONDS: Final = (0.0, 1.5)

MIX: Final = {
    "batch": 40,
    "short": 240,
    "watched": 60,
    "resubmitted": 40,
    "flaky": 50,
    "steps": 40,
    "later": 20,
    "thread": 20,
    "endless": 20,
    "long": 8,
    "child": 4,
    "hopeless": 4,
    "poison": 1,
}
"""What callers do, and how often in comparison."""


class Load:
    """Callers of all servers."""

    def __init__(
        self, clients: list[Client], *, rate: float, seed: int, ledger: Ledger, database_url: str
    ) -> None:
        self._clients = clients
        self._rate = rate
        self._random = Random(seed)
        self._ledger = ledger
        self._onlooker = Onlooker(database_url)
        self._over = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._watches = 0
        self._backlog = 0
        self._numbers = 0

    async def run(self) -> None:
        """Call until `stop`, then wait for what was begun: watches see their jobs' ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(self._replay())
            due = 0.0
            last = time.monotonic()
            while not self._over.is_set():
                await asyncio.sleep(TICK_SECONDS)
                now = time.monotonic()
                due, last = due + (now - last) * self._rate, now
                while due >= 1:
                    due -= self._begin(group)
            await self._finish()
        self._onlooker.close()

    async def _finish(self) -> None:
        if not self._calls:
            return
        _, late = await asyncio.wait(self._calls, timeout=FINISH_SECONDS_MAX)
        for task in late:
            self._ledger.complain(
                f"still not answered at the end: {task.get_name()}: {_place(task)}"
            )
            task.cancel()

    def stop(self) -> None:
        """No more calls."""
        self._over.set()

    async def burst(self) -> None:
        """Fill the work queue, so that something waits there."""
        client = self._clients[0]
        await self._submit(
            client, *(self._submission("short", BURST_JOB_SECONDS) for _ in range(BURST_JOBS))
        )

    def _begin(self, group: asyncio.TaskGroup) -> int:
        """Begin one of the mix; returns how many jobs that is."""
        kind = self._random.choices(list(MIX), weights=list(MIX.values()))[0]
        if len(self._calls) >= CALLS_MAX or self._backlog >= BACKLOG_MAX:
            self._ledger.counts["held back"] += 1
            return 1
        task = group.create_task(self._guard(kind), name=kind)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return BATCH_JOBS if kind == "batch" else 1

    async def _guard(self, kind: str) -> None:
        client = self._random.choice(self._clients)
        call: Callable[[Client], Coroutine[Any, Any, None]] = {
            "batch": self._batch,
            "watched": self._watched,
            "resubmitted": self._resubmitted,
            "endless": self._cancelled,
        }.get(kind, lambda client: self._plain(client, kind))
        try:
            await call(client)
        except HeadwayError as error:
            self._ledger.complain(f"{kind}: {type(error).__name__}: {error}")

    async def _plain(self, client: Client, kind: str) -> None:
        await self._submit(client, self._submission(kind))

    async def _batch(self, client: Client) -> None:
        await self._submit(client, *(self._submission("short") for _ in range(BATCH_JOBS)))

    async def _resubmitted(self, client: Client) -> None:
        """One key from several callers at a time, at several servers: one job."""
        submission = self._submission("short")
        found = await asyncio.gather(
            *(self._answered(self._random.choice(self._clients), submission) for _ in range(3))
        )
        jobs = [job for jobs in found for job in jobs]
        self._ledger.accept(job.id for job in jobs[:1])
        if len({job.id for job in jobs}) > 1 or sum(bool(job.created) for job in jobs) > 1:
            self._ledger.complain(f"one key, several jobs: {[job.id for job in jobs]}")

    async def _cancelled(self, client: Client) -> None:
        jobs = await self._submit(client, self._submission("endless"))
        await asyncio.sleep(self._random.uniform(*CANCEL_AFTER_SECONDS))
        for job in jobs:
            await self._patiently(partial(client.cancel, job.id, reason="soak"))
            self._ledger.counts["cancels"] += 1

    async def _watched(self, client: Client) -> None:
        """Every event in order, over every restart, and the right answer at the end."""
        kind = self._random.choice(["short", "short", "flaky", "steps", "long"])
        submission = self._submission(kind)
        number = self._numbers
        jobs = await self._submit(client, submission)
        if not jobs or self._watches >= WATCHES_MAX:
            return
        self._watches += 1
        seen: list[int] = []
        last: Job = jobs[0]
        try:
            while not seen or not last.done:
                last = await self._watch(client, last, seen)
        finally:
            self._watches -= 1
        self._ledger.counts["watches"] += 1
        if seen != list(range(1, len(seen) + 1)) or not last.done:
            self._ledger.complain(f"{last.id}: a watch saw {seen} and ended with {last.state}")
        answer = last.result["answer"] if isinstance(last.result, dict) else None
        if last.state is JobState.COMPLETED and answer != number:
            self._ledger.complain(f"{last.id}: {kind} answered {answer}, not {number}")

    async def _watch(self, client: Client, job: Job, seen: list[int]) -> Job:
        """Watch on until it is done, or until the client has had enough of an absent server."""
        updates = client.watch(job.id, after_sequence=len(seen), on_reconnect=self._reconnected)
        try:
            async with aclosing(updates):
                async for update in updates:
                    if isinstance(update, Event):
                        seen.append(update.sequence)
                        job = update.job
        except Unavailable:
            self._ledger.counts["watches given up and begun again"] += 1
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
        return job

    def _reconnected(self, _: Unavailable, __: float) -> None:
        self._ledger.counts["watches resumed"] += 1

    def _submission(self, kind: str, seconds: float | None = None) -> Submission:
        self._numbers += 1
        payload: dict[str, Any] = {"number": self._numbers}
        match kind:
            case "short" | "later" | "thread":
                payload["seconds"] = seconds or round(self._random.uniform(0, 0.05), 3)
            case "long":
                payload["seconds"] = round(HANDOFF_SECONDS + self._random.uniform(0.5, 4), 1)
            case "endless":
                payload["seconds"] = 12
            case "flaky":
                payload["failures"] = self._random.randint(1, 3)
        return Submission(
            f"soak.{kind}",
            payload,
            priority=self._random.randint(0, 9),
            idempotency_key=str(uuid4()),
            delay=self._random.uniform(0.5, 8) if kind == "later" else None,
            labels={"soak": kind} if self._numbers % 5 == 0 else None,
        )

    async def _submit(self, client: Client, *submissions: Submission) -> list[Job]:
        """Submit, and remember what was accepted."""
        jobs = await self._answered(client, *submissions)
        self._ledger.accept(job.id for job in jobs)
        return jobs

    async def _answered(self, client: Client, *submissions: Submission) -> list[Job]:
        """Submit with the same keys until it is answered; empty if that has not come by the end."""

        async def ask() -> list[Job]:
            if len(submissions) > 1:
                return list(await client.submit_many(submissions))
            one = submissions[0]
            return [
                await client.submit(
                    one.type,
                    one.payload,
                    priority=one.priority,
                    idempotency_key=one.idempotency_key,
                    delay=one.delay,
                    labels=one.labels,
                )
            ]

        return await self._patiently(ask) or []

    async def _patiently(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Ask until there is an answer. None if there is none when all is over."""
        begun = time.monotonic()
        while True:
            try:
                return await ask()
            except Unavailable:
                self._ledger.counts["unavailable"] += 1
                if self._over.is_set():
                    return None
                if time.monotonic() - begun > RETRY_SECONDS_MAX:
                    raise
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))

    async def _look(self) -> None:
        """Know the backlog, about."""
        while not self._over.is_set():
            found = await self._onlooker.number(UNFINISHED)
            if found is not None:
                self._backlog = found
            await asyncio.sleep(1)

    async def _replay(self) -> None:
        """Bring some dead jobs back, now and then."""
        while not self._over.is_set():
            try:
                async with asyncio.timeout(REPLAY_SECONDS):
                    await self._over.wait()
            except TimeoutError:
                chosen = DeadLetterFilter(type="soak.hopeless")
                client = self._random.choice(self._clients)
                replay = await self._patiently(partial(client.replay, chosen, max_jobs=5))
                if replay is not None:
                    self._ledger.counts["replayed"] += replay.replayed_count


def _place(task: asyncio.Task[None]) -> str:
    """Where it waits, innermost last."""
    lines = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        if frame is not None:
            lines.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return " > ".join(lines)
