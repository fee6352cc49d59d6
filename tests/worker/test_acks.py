"""Each delivery is acked once, and none that is still at work."""

import random

import pytest

from headway_worker.acks import Ack, AckLedger, Reject


def test_neighbours_share_one_ack() -> None:
    ledger = AckLedger()
    for tag in range(1, 6):
        ledger.delivered(tag)
    for tag in (2, 1, 3):
        ledger.ack(tag)
    assert ledger.take() == [Ack(3, multiple=True)]


def test_an_ack_passes_over_no_delivery_at_work() -> None:
    ledger = AckLedger()
    for tag in range(1, 6):
        ledger.delivered(tag)
    for tag in (1, 3, 4):
        ledger.ack(tag)
    assert ledger.take() == [Ack(1, multiple=False), Ack(3, multiple=False), Ack(4, multiple=False)]


def test_rejects_are_written_before_an_ack_that_passes_over_them() -> None:
    ledger = AckLedger()
    for tag in range(1, 4):
        ledger.delivered(tag)
    ledger.ack(1)
    ledger.reject(2)
    ledger.ack(3)
    assert ledger.take() == [Reject(2), Ack(3, multiple=True)]


def test_a_second_ack_is_a_defect_that_never_reaches_the_broker() -> None:
    ledger = AckLedger()
    ledger.delivered(1)
    ledger.ack(1)
    with pytest.raises(AssertionError):
        ledger.reject(1)
    ledger.take()
    with pytest.raises(AssertionError):
        ledger.ack(1)


@pytest.mark.parametrize("seed", range(20))
def test_the_broker_hears_of_exactly_the_finished_ones(seed: int) -> None:
    random_ = random.Random(seed)
    ledger = AckLedger()
    unacked_at_broker: set[int] = set()
    at_work: list[int] = []
    finished: set[int] = set()
    for tag in range(1, 500):
        unacked_at_broker.add(tag)
        ledger.delivered(tag)
        at_work.append(tag)
        while at_work and random_.random() < 0.5:
            done = at_work.pop(random_.randrange(len(at_work)))
            (ledger.reject if random_.random() < 0.1 else ledger.ack)(done)
            finished.add(done)
        if random_.random() < 0.3:
            for frame in ledger.take():
                match frame:
                    case Reject(number):
                        unacked_at_broker.remove(number)
                    case Ack(number, multiple):
                        covered = {
                            item
                            for item in unacked_at_broker
                            if item == number or (multiple and item < number)
                        }
                        assert number in covered
                        assert covered <= finished
                        unacked_at_broker -= covered
            assert unacked_at_broker == set(at_work)
