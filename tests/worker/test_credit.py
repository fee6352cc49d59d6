"""Slots are dealt out to the queues so that none is taken twice and no queue starves."""

import random
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_worker.credit import CONSUMERS_OF_A_QUEUE_MAX, CreditLedger, fair_shares

NAMES = ["a", "b", "c", "d"]
demands = st.dictionaries(
    st.sampled_from(NAMES), st.integers(0, 2_000), min_size=1, max_size=len(NAMES)
)


@given(st.integers(1, 300), demands)
def test_shares_add_up_to_the_slots(slots: int, demand: dict[str, int]) -> None:
    assert sum(fair_shares(slots, demand).values()) == slots


@given(st.integers(1, 300), demands)
def test_every_queue_has_a_share_if_there_are_enough_slots(
    slots: int, demand: dict[str, int]
) -> None:
    shares = fair_shares(slots, demand)
    assert min(shares.values()) >= (1 if slots >= len(demand) else 0)


@given(st.integers(4, 300), demands)
def test_nobody_wants_for_a_slot_that_another_cannot_use(
    slots: int, demand: dict[str, int]
) -> None:
    shares = fair_shares(slots, demand)
    wanting = [queue for queue, wanted in demand.items() if shares[queue] < wanted]
    for queue in wanting:
        for other in demand:
            # Its reserve of one slot, or as much work of its own as the wanting one has.
            assert shares[other] <= max(1, min(demand.get(other, 0), shares[queue] + 1))


def test_an_idle_queue_keeps_one_slot_and_the_busy_one_gets_the_rest() -> None:
    assert fair_shares(10, {"busy": 500, "idle": 0}) == {"busy": 9, "idle": 1}


def test_two_busy_queues_share_evenly() -> None:
    assert fair_shares(10, {"a": 500, "b": 500}) == {"a": 5, "b": 5}


def test_with_fewer_slots_than_queues_who_waited_longest_comes_first() -> None:
    demand = {"a": 5, "b": 5, "c": 0}
    assert fair_shares(1, demand, order=["b", "a", "c"]) == {"a": 0, "b": 1, "c": 0}
    assert fair_shares(1, demand, order=["c", "a", "b"]) == {"a": 1, "b": 0, "c": 0}


def test_one_queue_gets_one_consumer_for_all_slots() -> None:
    ledger = CreditLedger(10, ["default"])
    assert ledger.to_open() == [("default", 10)]
    ledger.opened("t1", "default", 10)
    assert ledger.uncovered == 0
    assert ledger.to_open() == []
    assert ledger.to_cancel() == []


def test_the_credit_of_an_idle_queue_goes_to_the_one_that_lacks_it() -> None:
    ledger = CreditLedger(10, ["a", "b"])
    for number, (queue, credit) in enumerate(ledger.to_open()):
        ledger.opened(f"t{number}", queue, credit)
    for _ in range(5):
        ledger.delivered("t0", "a")
    ledger.targets = fair_shares(10, {"a": 100, "b": 0})
    assert ledger.to_cancel() == ["t1"]
    ledger.closed("t1")
    assert sorted(ledger.to_open()) == [("a", 4), ("b", 1)]


def test_many_small_consumers_are_merged() -> None:
    ledger = CreditLedger(10, ["default"])
    for number in range(CONSUMERS_OF_A_QUEUE_MAX + 1):
        ledger.opened(f"t{number}", "default", 2)
    for tag in ledger.to_cancel():
        ledger.closed(tag)
    assert ledger.to_open() == [("default", 4)]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_no_more_is_out_than_there_are_free_slots(seed: int) -> None:
    """A random walk against a broker that always delivers as much as it may."""
    random_ = random.Random(seed)
    queues = NAMES[: random_.randint(1, 4)]
    slots = random_.randint(1, 12)
    ledger = CreditLedger(slots, queues)
    walk = _Walk(ledger, random_, slots)
    for _ in range(2_000):
        random_.choice(
            [walk.deal, walk.deal, walk.deliver, walk.deliver, walk.finish, walk.hand_off, walk.aim]
        )()
        if random_.random() < 0.01:
            walk.lose_channel()
        assert ledger.uncovered >= 0
        assert walk.running + sum(c.credit - c.held for c in ledger.consumers.values()) <= slots


class _Walk:
    def __init__(self, ledger: CreditLedger, random_: random.Random, slots: int) -> None:
        self.ledger = ledger
        self.random = random_
        self.slots = slots
        self.tags = count()
        self.in_hand: list[tuple[str, str]] = []
        self.detached: list[str] = []

    @property
    def running(self) -> int:
        return len(self.in_hand) + len(self.detached)

    def deal(self) -> None:
        for tag in self.ledger.to_cancel():
            self.ledger.closed(tag)
        for queue, credit in self.ledger.to_open():
            self.ledger.opened(f"t{next(self.tags)}", queue, credit)

    def deliver(self) -> None:
        free = [(tag, c) for tag, c in self.ledger.consumers.items() if c.held < c.credit]
        if free:
            tag, consumer = self.random.choice(free)
            self.ledger.delivered(tag, consumer.queue)
            self.in_hand.append((tag, consumer.queue))

    def finish(self) -> None:
        if self.detached and self.random.random() < 0.5:
            self.ledger.detached_freed(self.detached.pop())
        elif self.in_hand:
            self.ledger.freed(*self.in_hand.pop(self.random.randrange(len(self.in_hand))))

    def hand_off(self) -> None:
        if self.in_hand:
            tag, queue = self.in_hand.pop()
            if tag in self.ledger.consumers:
                self.ledger.closed(tag)
            self.ledger.detach(queue)
            self.detached.append(queue)

    def aim(self) -> None:
        demand = {queue: self.random.choice([0, 1, 5, 100]) for queue in self.ledger.queues}
        self.ledger.targets = fair_shares(self.slots, demand)

    def lose_channel(self) -> None:
        self.ledger.channel_lost()
        self.detached.extend(queue for _, queue in self.in_hand)
        self.in_hand.clear()
