"""Outbox to broker (DESIGN §5.2): a fast path right after commit, and a poller as the guarantee.

Any number of relays may run. A row is deleted only once the broker has confirmed its message, so a
crash in between publishes twice, which a claim absorbs. Nothing here refuses a submit: with the
broker away the rows stay where they are.
"""

import asyncio
import random
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from headway_core import outbox
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.failpoints import failpoint
from headway_core.job import Dispatch
from headway_core.publishing import Publisher
from headway_server.bookkeeper import Bookkeeper
from headway_server.streak import Streak

BATCH_MAX: Final = 256
FAST_WAITING_MAX: Final = 10_000
"""What does not fit is left to the poller."""
FAST_BUSY_MIN: Final = 8
FAST_GATHERING: Final = timedelta(milliseconds=24)
"""After a batch of FAST_BUSY_MIN or more, unless it was full, the next one fills for so long."""
FAST_TURN_SECONDS: Final = 0.25
"""A batch that the broker takes longer for holds up the others no more."""
FAST_AGE_SECONDS_MAX: Final = 2.0
"""Older ones are left to a poller: a publish takes its time, and once their reservation is over
(submissions.FAST_PATH) a poller publishes them, too, which a claim absorbs."""
POLL: Final = timedelta(milliseconds=250)
HOLD_SECONDS_MAX: Final = 9.0
"""For one batch: a publish takes 5 s at most, and after 10 s Postgres ends an idle transaction."""
BACKOFF: Final = timedelta(seconds=1)
DEFERRAL: Final = timedelta(seconds=10)
"""How long rows that the broker does not take step back behind the others."""


class Relay:
    """Publishes what is due.

    `run` is to be a task; it ends by cancellation. `dispatch` and `poke` may be called from any
    other task of the loop and never wait.
    """

    def __init__(self, database: Database, publisher: Publisher, bookkeeper: Bookkeeper) -> None:
        self._database = database
        self._publisher = publisher
        self._bookkeeper = bookkeeper
        self._fast: deque[tuple[float, Dispatch]] = deque()
        self._fast_filled = asyncio.Event()
        self._poked = asyncio.Event()
        self._at_work = 0
        self._at_rest = asyncio.Event()
        self._finishing = False
        self._streak = Streak("outbox poller")

    def dispatch(self, dispatches: Sequence[Dispatch]) -> None:
        """Publish rows that were just committed and are reserved for this process."""
        if self._finishing or not self._publisher.ready:
            return
        now = asyncio.get_running_loop().time()
        room = FAST_WAITING_MAX - len(self._fast)
        self._fast.extend((now, item) for item in dispatches[:room])
        self._fast_filled.set()

    def poke(self) -> None:
        """Look for due rows now: somebody has written some."""
        self._poked.set()

    async def finish(self) -> None:
        """Take nothing new and wait for what is under way: a server leaves no half work behind."""
        self._finishing = True
        self._poked.set()
        while self._fast or self._at_work:
            self._at_rest.clear()
            await self._at_rest.wait()

    async def run(self) -> None:
        """Run the fast path and the poller."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_fast())
            group.create_task(self._poll())

    async def _publish_fast(self) -> None:
        # One batch at a time: what is committed meanwhile is the next one, and the larger a batch,
        # the less a job in it costs the broker and us.
        time = asyncio.get_running_loop().time
        batch: list[Dispatch] = []
        ended = float("-inf")
        async with asyncio.TaskGroup() as publishes:
            while True:
                await self._fast_filled.wait()
                if FAST_BUSY_MIN <= len(batch) < BATCH_MAX and not self._finishing:
                    await asyncio.sleep(ended + FAST_GATHERING.total_seconds() - time())
                batch = self._take_fast()
                if batch:
                    with self._work():  # until the task counts for itself
                        publish = publishes.create_task(self._publish_batch(batch))
                        await asyncio.wait([publish], timeout=FAST_TURN_SECONDS)
                ended = time()

    def _take_fast(self) -> list[Dispatch]:
        oldest = asyncio.get_running_loop().time() - FAST_AGE_SECONDS_MAX
        batch: list[Dispatch] = []
        while self._fast and len(batch) < BATCH_MAX:
            time, item = self._fast.popleft()
            if time >= oldest:
                batch.append(item)
        if not self._fast:
            self._fast_filled.clear()
        return batch

    async def _publish_batch(self, batch: Sequence[Dispatch]) -> None:
        with self._work():
            confirmed, _ = _by_answer(batch, await self._publisher.publish(batch))
            await failpoint("after_publish")
            self._bookkeeper.forget(confirmed)

    async def _poll(self) -> None:
        while not self._finishing:
            await self._publisher.wait_ready()
            self._poked.clear()
            try:
                with self._work():
                    taken = await self._publish_due()
            except StoreUnavailable as error:
                self._streak.failed(error)
                await asyncio.sleep(BACKOFF.total_seconds() * random.uniform(0.5, 1.5))
                continue
            self._streak.worked()
            if taken < BATCH_MAX:
                await self._pause()

    async def _publish_due(self) -> int:
        """Publish one batch, in one transaction; how many rows it had."""
        async with self._database.transaction(timeout_seconds=HOLD_SECONDS_MAX) as connection:
            batch = await outbox.take_due(connection, limit=BATCH_MAX)
            if not batch:
                return 0
            answers = await self._publisher.publish(batch)
            await failpoint("after_publish")
            confirmed, refused = _by_answer(batch, answers)
            if confirmed:
                await outbox.delete(connection, [item.outbox_id for item in confirmed])
            if refused and self._publisher.ready:
                # Not the broker but these are the trouble: others get their turn before them.
                ids = [item.outbox_id for item in refused]
                await outbox.defer(connection, ids, for_how_long=DEFERRAL)
        await failpoint("after_outbox_delete")
        self._bookkeeper.mark(confirmed)
        return len(batch)

    @contextmanager
    def _work(self) -> Iterator[None]:
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            self._at_rest.set()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(POLL.total_seconds() * random.uniform(0.8, 1.2)):
                await self._poked.wait()
        except TimeoutError:
            pass


def _by_answer(
    batch: Sequence[Dispatch], answers: Sequence[bool]
) -> tuple[list[Dispatch], list[Dispatch]]:
    """Those that the broker has confirmed, and those that it has not."""
    answered = list(zip(batch, answers, strict=True))
    return [item for item, answer in answered if answer], [
        item for item, answer in answered if not answer
    ]
