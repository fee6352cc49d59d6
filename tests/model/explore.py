"""Breadth-first exploration: every state, the shortest way to a bad one, who can still finish."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from headway_core.states import DONE, MAY_FOLLOW, JobState
from tests.model.protocol import CRASHES_MAX, Protocol, State, Step

STATES_MAX: Final = 500_000

Parents = dict[State, tuple[State, str] | None]


@dataclass(frozen=True, slots=True)
class Found:
    """What an exploration found."""

    states: int
    broken: str = ""
    """The first safety violation, with the shortest way to it; empty if there is none."""
    stuck: int = 0
    """States from which no way without a further fault leads to a done job."""
    stuck_way: str = ""
    """The shortest way to the first of them."""


def explore(protocol: Protocol, *, charge_allowed: bool = True) -> Found:
    """Visit every state. Without `charge_allowed` no attempt or crash may be charged to the job."""
    parents: Parents = {protocol.start: None}
    backwards: dict[State, list[State]] = {}
    waiting = deque([protocol.start])
    while waiting:
        state = waiting.popleft()
        for step in protocol.steps(state):
            if word := _violation(state, step, charge_allowed=charge_allowed):
                return Found(len(parents), f"{word}: {_way(parents, state)} > {step.name}")
            if not step.fault:
                backwards.setdefault(step.after, []).append(state)
            if step.after not in parents:
                parents[step.after] = (state, step.name)
                waiting.append(step.after)
                assert len(parents) <= STATES_MAX, "too many states: lower the budgets"
    finishing = _finishing(parents, backwards)
    stuck = [state for state in parents if state not in finishing]
    return Found(len(parents), "", len(stuck), _way(parents, stuck[0]) if stuck else "")


def _violation(before: State, step: Step, *, charge_allowed: bool) -> str:
    job, then = before.job, step.after.job
    if then.completions > 1:
        return "two completions"
    if then.state is not job.state and then.state not in MAY_FOLLOW[job.state]:
        return f"{then.state.name} follows {job.state.name}"
    if then.state is JobState.QUEUED and not then.confirmed:
        return "QUEUED, and the broker never confirmed it"
    if then.charged and not charge_allowed:
        return "charged without a fault of the job"
    if then.crashes > CRASHES_MAX:
        return "more crashes than the budget"
    return ""


def _finishing(parents: Parents, backwards: dict[State, list[State]]) -> set[State]:
    good = {state for state in parents if state.job.state in DONE}
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
