"""How many deliveries each queue may have out to us: never more in all than there are free slots.

A pure ledger; consumer.py acts on it. With `global_qos` gone from RabbitMQ 4 a prefetch limit
holds for one consumer alone, so slots are dealt out to consumers as *credit*:

    slots  =  credit of live consumers  +  orphans  +  detached  +  uncovered

A live consumer holds at most its credit. *Orphans* are deliveries in hand whose consumer was
cancelled, *detached* are slots whose delivery was acked early or lost with its channel,
*uncovered* is credit nobody has, to be dealt out again. A slot therefore is counted once wherever
its delivery goes, and what the broker may have out to us never exceeds the free slots.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

CONSUMERS_OF_A_QUEUE_MAX: Final = 4
"""More live ones than these are merged: each costs the broker work for every message."""


@dataclass(slots=True)
class Consumer:
    """A live consumer at the broker."""

    queue: str
    credit: int
    held: int = 0
    """Deliveries of it in hand; never more than its credit."""


@dataclass(slots=True)
class CreditLedger:
    """Who has which share of the slots."""

    slots: int
    queues: Sequence[str]
    targets: dict[str, int] = field(init=False)
    """The share each queue should have now; together they are the slots."""
    consumers: dict[str, Consumer] = field(default_factory=dict)
    """The live ones, by tag."""
    dealt: dict[str, int] = field(init=False)
    """When each queue last got a share, by the number of the deal."""
    orphans: Counter[str] = field(default_factory=Counter)
    detached: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.targets = fair_shares(self.slots, dict.fromkeys(self.queues, 0))
        self.dealt = dict.fromkeys(self.queues, 0)

    @property
    def uncovered(self) -> int:
        """Credit that nobody has."""
        covered = sum(consumer.credit for consumer in self.consumers.values())
        return self.slots - covered - self.orphans.total() - self.detached.total()

    @property
    def held(self) -> int:
        """Deliveries in hand."""
        return sum(consumer.held for consumer in self.consumers.values()) + self.orphans.total()

    def busy(self, queue: str) -> int:
        """Slots taken by a queue's deliveries and runs."""
        live = sum(c.held for c in self.consumers.values() if c.queue == queue)
        return live + self.orphans[queue] + self.detached[queue]

    @property
    def saturated(self) -> bool:
        """Whether some queue has used up its share, so that more may wait for it at the broker."""
        return any(self.busy(queue) >= self.covered(queue) for queue in self.queues)

    @property
    def longest_without_first(self) -> list[str]:
        """The queues, by how long ago they got their last share."""
        return sorted(self.queues, key=self.dealt.__getitem__)

    def covered(self, queue: str) -> int:
        """A queue's share as it is."""
        live = sum(c.credit for c in self.consumers.values() if c.queue == queue)
        return live + self.orphans[queue] + self.detached[queue]

    def opened(self, tag: str, queue: str, credit: int) -> None:
        """A consumer is about to be made."""
        self.dealt[queue] = max(self.dealt.values()) + 1
        self.consumers[tag] = Consumer(queue, credit)

    def delivered(self, tag: str, queue: str) -> None:
        """A delivery came."""
        if tag in self.consumers:
            self.consumers[tag].held += 1
        else:
            self.orphans[queue] += 1

    def closed(self, tag: str) -> None:
        """The broker has confirmed that a consumer is cancelled: it sends nothing more."""
        consumer = self.consumers.pop(tag)
        self.orphans[consumer.queue] += consumer.held

    def freed(self, tag: str, queue: str) -> None:
        """A delivery in hand is acked or rejected, and its slot is free."""
        if tag in self.consumers:
            self.consumers[tag].held -= 1
        else:
            self.orphans[queue] -= 1

    def detach(self, queue: str) -> None:
        """An orphan is acked, and its slot stays taken."""
        self.orphans[queue] -= 1
        self.detached[queue] += 1

    def detached_freed(self, queue: str) -> None:
        """A slot without a delivery is free."""
        self.detached[queue] -= 1

    def channel_lost(self) -> None:
        """All consumers and deliveries are gone; the slots of those in hand stay taken."""
        for consumer in self.consumers.values():
            self.detached[consumer.queue] += consumer.held
        self.detached.update(self.orphans)
        self.consumers.clear()
        self.orphans.clear()

    def to_cancel(self) -> list[str]:
        """Consumers whose credit is wanted elsewhere, or that are one too many for their queue."""
        tags = []
        wanted = any(self.covered(queue) < self.targets[queue] for queue in self.queues)
        for queue in self.queues:
            live = [(tag, c) for tag, c in self.consumers.items() if c.queue == queue]
            # The one with most to give first.
            live.sort(key=lambda item: item[1].held - item[1].credit)
            excess = self.covered(queue) - self.targets[queue]
            if wanted and excess > 0 and self.uncovered <= 0:
                for tag, consumer in live:
                    if excess <= 0:
                        break
                    tags.append(tag)
                    excess -= consumer.credit
            elif len(live) > CONSUMERS_OF_A_QUEUE_MAX:
                smallest = sorted(live, key=lambda item: item[1].credit)
                tags.extend(tag for tag, _ in smallest[: len(live) - CONSUMERS_OF_A_QUEUE_MAX + 1])
        return tags

    def to_open(self) -> list[tuple[str, int]]:
        """What to deal out: (queue, credit), the queue that lacks most first."""
        left = self.uncovered
        lacking = {queue: self.targets[queue] - self.covered(queue) for queue in self.queues}
        deals = []
        for queue in sorted(self.queues, key=lambda name: -lacking[name]):
            credit = min(left, lacking[queue])
            if credit > 0:
                deals.append((queue, credit))
                left -= credit
        return deals


def fair_shares(
    slots: int, demand: Mapping[str, int], *, order: Iterable[str] | None = None
) -> dict[str, int]:
    """Share out slots by demand (deliveries waiting and at work); the shares add up to the slots.

    Every queue has one slot if there are enough, so that a message never waits for a new share;
    then each takes evenly as much as it can use, and what is left is spread, as work may come
    anywhere. With fewer slots than queues those with demand come first, in the given order (who
    waited longest for a share).
    """
    queues = list(order or demand)
    shares = dict.fromkeys(queues, 0)
    if slots < len(queues):
        for queue in sorted(queues, key=lambda name: demand[name] == 0)[:slots]:
            shares[queue] = 1
        return shares
    shares = dict.fromkeys(queues, 1)
    left = slots - len(queues)
    for capped in (True, False):
        while left > 0:
            open_to_more = [q for q in queues if not capped or demand[q] > shares[q]]
            if not open_to_more:
                break
            each = max(left // len(open_to_more), 1)
            for queue in open_to_more[:left]:
                more = min(each, demand[queue] - shares[queue]) if capped else each
                shares[queue] += more
                left -= more
    return shares
