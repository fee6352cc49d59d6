"""Breadth-first exploration: every state, the shortest way to a bad one, who can still finish."""

import re
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from tests.model.invariants import Invariants
from tests.model.protocol import Protocol
from tests.model.state import State

STATES_MAX: Final = 2_000_000

Parents = dict[State, tuple[State, str] | None]


@dataclass(frozen=True, slots=True)
class Found:
    """What an exploration found."""

    states: int
    broken: str = ""
    """The first invariant that does not hold; empty if all do."""
    stuck: int = 0
    """States from which no way without a further fault leads to the goal."""
    way: str = ""
    """The shortest way to the first bad state."""
    kinds: frozenset[str] = frozenset()
    """The steps that were taken, N standing for each number."""

    @property
    def verdict(self) -> str:
        """In words; empty if nothing is wrong."""
        if self.broken:
            return f"{self.broken}: {self.way}"
        return f"{self.stuck} states stuck: {self.way}" if self.stuck else ""


def explore(
    protocol: Protocol,
    *,
    chargeable: Collection[int] = (0, 1),
    goal: Callable[[State], bool] = lambda state: state.done,
) -> Found:
    """Visit every state, or stop at the first that breaks an invariant.

    `chargeable`: the jobs to which an attempt or a crash may be charged. `goal`: what must stay
    within reach, however far the faults have gone.
    """
    invariants = Invariants(protocol, chargeable)
    parents: Parents = {protocol.start: None}
    backwards: dict[State, list[State]] = {}
    waiting = deque([protocol.start])
    names: set[str] = set()
    while waiting:
        state = waiting.popleft()
        for step in protocol.steps(state):
            after = step.after
            names.add(step.name)
            word = invariants.broken_by_step(state, after)
            if after not in parents:
                word = word or invariants.broken_in(after)
                parents[after] = (state, step.name)
                waiting.append(after)
                assert len(parents) <= STATES_MAX, "too many states: lower the budgets"
            if word:
                return Found(len(parents), word, 0, f"{_way(parents, state)} > {step.name}")
            if not step.fault:
                backwards.setdefault(after, []).append(state)
    reaching = _reaching(goal, parents, backwards)
    stuck = [state for state in parents if state not in reaching]
    return Found(
        len(parents),
        "",
        len(stuck),
        _way(parents, stuck[0]) if stuck else "",
        frozenset(re.sub(r"\d+", "N", name) for name in names),
    )


def _reaching(
    goal: Callable[[State], bool], parents: Parents, backwards: dict[State, list[State]]
) -> set[State]:
    good = {state for state in parents if goal(state)}
    waiting = deque(good)
    while waiting:
        for before in backwards.get(waiting.popleft(), ()):
            if before not in good:
                good.add(before)
                waiting.append(before)
    return good


def _way(parents: Parents, state: State) -> str:
    names: list[str] = []
    at: State | None = state
    while at is not None and (parent := parents[at]) is not None:
        at, name = parent
        names.append(name)
    return " > ".join(reversed(names))
