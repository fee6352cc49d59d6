"""What is tried: transitions with their arguments, drawn by lot."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from headway_core.leases import LeaseEnd
from tests.store.machine import serving, supervising, working
from tests.store.machine.rows import QUEUE
from tests.store.machine.working import ENDS
from tests.store.machine.world import NUMBERS_MAX, Operation, World

ITEMS_MAX: Final = 3
OTHER_QUEUE: Final = "other"

Draw = Callable[[Random], Any]
Make = Callable[..., Operation | None]
Transitions = dict[Make, tuple[int, dict[str, Draw]]]


def _one_of(*values: Any) -> Draw:
    return lambda random: random.choice(values)


def _some(draw: Draw) -> Draw:
    """One, often; else up to ITEMS_MAX."""
    sizes = (1, 1, 1, *range(2, ITEMS_MAX + 1))
    return lambda random: [draw(random) for _ in range(random.choice(sizes))]


def _filled(draws: dict[str, Draw]) -> Draw:
    return lambda random: {name: draw(random) for name, draw in draws.items()}


_number: Final = _one_of(*range(NUMBERS_MAX + 1))
_flag: Final = _one_of(False, True)
_submission: Final = {
    "type": _one_of("noop", "rare"),
    "priority": _one_of(4, 4, 0, 9),
    "key": _one_of(None, "a", "b"),
    "text": _one_of("x", "x", "y"),
    "due": _one_of(True, True, False),
    "patient": _flag,
}

# How often each is tried, and with what. Runs must begin before anything can become of them.
TRANSITIONS: Final[Transitions] = {
    working.claim: (10, {"jobs": _some(_number), "worker": _number}),
    working.settle: (
        8,
        {
            "runs_": _some(_number),
            "ends": lambda random: random.choices([*ENDS, "failed for good"], k=ITEMS_MAX),
            "in_hand": _flag,
            "progress": _one_of(None, 7),
        },
    ),
    supervising.end_lease: (
        4,
        {"worker": _number, "how": _one_of(*LeaseEnd), "guilty": _flag},
    ),
    working.decline: (4, {"job": _number, "worker": _number}),
    working.step: (4, {"run_": _number, "name": _one_of("s", "t")}),
    working.save_progress: (1, {"runs_": _some(_number), "done": _one_of(1, 2)}),
    supervising.interrupt: (2, {"run_": _number}),
    supervising.beat: (2, {"worker": _number}),
    supervising.reap: (4, {"worker": _number}),
    supervising.find_lapsed: (2, {}),
    supervising.tidy: (1, {"forgotten": _flag}),
    serving.relay: (4, {"how": _one_of("confirmed", "confirmed", "in part", "crash")}),
    serving.fast_path: (3, {}),
    serving.mark: (4, {"jobs": _some(_number), "back": _one_of(0, 0, 1)}),
    serving.find_stranded: (2, {}),
    serving.redispatch: (3, {"jobs": _some(_number), "back": _one_of(0, 0, 1)}),
    serving.redispatch_queued: (2, {"queue": _one_of(QUEUE, QUEUE, OTHER_QUEUE)}),
    serving.boost: (2, {}),
    serving.cancel: (2, {"job": _number}),
    serving.replay: (4, {"job": _number}),
    serving.revive: (3, {"jobs": _some(_number), "back": _one_of(0, 1)}),
    serving.submit: (
        4,
        {"items": _some(_filled(_submission)), "queue": _one_of(None, None, QUEUE, OTHER_QUEUE)},
    ),
    serving.retire: (2, {}),
    serving.forget_keys: (1, {}),
}
# Transactions of several statements that look again at what they have locked.
SEVERAL: Final[Transitions] = {
    make: TRANSITIONS[make]
    for make in (supervising.end_lease, supervising.reap, supervising.interrupt)
}
STATEMENTS_MAX: Final = 6


class Choice:
    """A transition and its arguments, by lot: Hypothesis alone tries a few kinds far too often.

    And it draws the same lot again and again, which is another choice at each turn of a game.
    """

    def __init__(self, lot: int, transitions: Transitions = TRANSITIONS) -> None:
        self._lot = lot
        self._transitions = transitions

    def __call__(self, world: World) -> Operation | None:
        world.turns += 1
        random = Random(f"{self._lot} {world.turns}")
        weights = [weight for weight, _ in self._transitions.values()]
        (make,) = random.choices([*self._transitions], weights)
        return make(
            world, **{name: draw(random) for name, draw in self._transitions[make][1].items()}
        )

    def __repr__(self) -> str:
        return f"Choice({self._lot})"
