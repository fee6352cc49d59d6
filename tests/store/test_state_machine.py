"""Random interleavings of every transition on real Postgres, compared with plain Python.

Each operation runs on the store and on the reference; then what was answered and all tables are
compared. In a race one operation is held in an open transaction while another runs beside it on a
connection of its own, until that one is done or waits for a lock; then the first is committed or
rolled back. HEADWAY_TEST_MACHINE=N plays N games, each with other choices and twice as long;
pytest's --hypothesis-seed repeats them.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headway_core import claims, leases, outbox, submissions, sweeps
from headway_core import database as border
from headway_core.database import Database
from headway_core.job import RetryPolicy
from tests.store.machine import serving, working
from tests.store.machine.connections import PATIENCE_SECONDS, Store
from tests.store.machine.reading import Tables, stored, told
from tests.store.machine.reference import merged
from tests.store.machine.working import OUTCOMES
from tests.store.machine.world import FITTING_MAX, HOUR, NUMBERS_MAX, TYPES, Held, Operation, World

GAMES: Final = int(os.environ.get("HEADWAY_TEST_MACHINE", "0"))
WORKERS_MAX: Final = 3

Draw = Callable[[Random], Any]


def _one_of(*values: Any) -> Draw:
    return lambda random: random.choice(values)


_number: Final = _one_of(*range(NUMBERS_MAX + 1))
_flag: Final = _one_of(False, True)

# How often each is tried, and with what. Runs must begin before anything can become of them.
TRANSITIONS: Final[dict[Callable[..., Operation | None], tuple[int, dict[str, Draw]]]] = {
    working.claim: (
        5,
        {
            "jobs": lambda random: [_number(random) for _ in range(random.choice((1, 1, 2)))],
            "worker": _number,
        },
    ),
    working.settle: (
        4,
        {
            "run_": _number,
            "end": _one_of(*OUTCOMES, "failed for good", "failed for good"),
            "in_hand": _flag,
        },
    ),
    working.end_lease: (
        2,
        {"worker": _number, "how": _one_of(*leases.LeaseEnd), "guilty": _flag},
    ),
    working.decline: (2, {"job": _number, "worker": _number}),
    working.step: (1, {"run_": _number, "name": _one_of("s", "t")}),
    working.interrupt: (1, {"run_": _number}),
    working.beat: (1, {"worker": _number}),
    working.reap: (2, {"worker": _number}),
    serving.relay: (2, {}),
    serving.mark: (2, {"job": _number, "back": _one_of(0, 0, 1)}),
    serving.redispatch: (1, {"job": _number}),
    serving.boost: (1, {}),
    serving.cancel: (1, {"job": _number}),
    serving.replay: (2, {"job": _number}),
    serving.submit: (
        2,
        {
            "rare": _flag,
            "key": _one_of(None, "a", "b"),
            "text": _one_of("x", "x", "y"),
            "due": _one_of(True, True, False),
            "patient": _flag,
        },
    ),
}


class Choice:
    """A transition and its arguments, by lot: Hypothesis alone tries a few kinds far too often."""

    def __init__(self, lot: int) -> None:
        random = Random(lot)
        weights = [weight for weight, _ in TRANSITIONS.values()]
        (self._make,) = random.choices([*TRANSITIONS], weights)
        self._given = {name: draw(random) for name, draw in TRANSITIONS[self._make][1].items()}

    def __call__(self, world: World) -> Operation | None:
        return self._make(world, **self._given)

    def __repr__(self) -> str:
        return f"{self._make.__name__} {self._given}"


lots = st.integers(0, 2**32 - 1)
choices = lots.map(Choice)
numbers = lots.map(lambda lot: Random(lot).randint(0, NUMBERS_MAX))
flags = st.booleans()


class Machine(RuleBasedStateMachine):
    """One game."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.world = World()
        self.past: list[Operation] = []
        self._empty()

    @initialize()
    def begin(self) -> None:
        """Two workers, and a job of each that runs."""
        for types in (TYPES[1], TYPES[0]):
            self._register(types)
        for n, rare in enumerate((True, False, False)):
            self._run(
                serving.submit(self.world, rare=rare, key=None, text="", due=True, patient=False)
            )
            self._run(working.claim(self.world, jobs=[0], worker=n))

    @rule(choice=choices)
    def run(self, choice: Choice) -> None:
        """Whatever it is."""
        self._staff()
        if operation := choice(self.world):
            self._run(operation)

    @rule(choice=choices)
    def run_twice(self, choice: Choice) -> None:
        """Its first reply was lost."""
        if operation := choice(self.world):
            self._run(operation)
            self._run(operation)

    @precondition(lambda self: self.past)
    @rule(back=st.integers(1, 6))
    def run_late(self, back: int) -> None:
        """A try of long ago reaches Postgres only now."""
        self._run(self.past[-min(back, len(self.past))])

    @rule(first=choices, second=choices, commits=flags, n=numbers)
    def race(self, first: Choice, second: Choice, commits: bool, n: int) -> None:
        """The second meets the first's locks, most of the time at the same job."""
        self._staff()
        if n <= FITTING_MAX:
            self.world.focus = self.world.job(n, lambda job: job.run_epoch > 0)
        try:
            self._race(first(self.world), second(self.world), commits=commits)
        finally:
            self.world.focus = None

    @rule(choice=choices, commits=flags)
    def race_itself(self, choice: Choice, commits: bool) -> None:
        """A rerun begins while the original still runs."""
        operation = choice(self.world)
        self._race(operation, operation, commits=commits)

    @rule(what=st.sampled_from(["time", "time", "time", "lapse", "worker"]), n=numbers)
    def world_changes(self, what: str, n: int) -> None:
        """What nobody's transition brings about."""
        match what:
            case "time":
                self._pass_time(n)
            case "lapse":
                self._lapse(n)
            case _:
                self._register(TYPES[n % len(TYPES)])

    def _pass_time(self, n: int) -> None:
        """A job's delay is over, and its rows are anybody's."""
        job = self.world.job(n, lambda job: job.due is False)
        reference = self.world.reference
        reference.pass_time(job)
        for number, row in reference.outbox.items():
            if row.job == job:
                reference.outbox[number] = replace(row, reserved=False)
        self._execute(
            "WITH due AS (UPDATE jobs SET wait_time = clock_timestamp() "
            "WHERE id = $1 AND state IN (1, 5) RETURNING id, dispatch_no) "
            "UPDATE outbox SET available_at = clock_timestamp() FROM due "
            "WHERE job_id = due.id AND outbox.dispatch_no = due.dispatch_no",
            job,
        )
        self._execute("UPDATE outbox SET reserved_until = NULL WHERE job_id = $1", job)
        self._compare("time passes")

    def _lapse(self, n: int) -> None:
        """A worker is heard of no more."""
        worker = self.world.worker(n)
        rows = self.world.reference.workers
        rows[worker] = replace(rows[worker], lapsed=True)
        self._execute("UPDATE workers SET lease_expires = clock_timestamp() WHERE id = $1", worker)
        self._compare("a lease lapses")

    def _staff(self) -> None:
        if not any(self.world.reference.workers[one].live for one in self.world.workers):
            self._register(TYPES[1])

    def _register(self, types: frozenset[str]) -> None:
        worker = uuid4()
        policy = RetryPolicy()
        handlers = [leases.HandlerType(type_, "default", policy, None) for type_ in sorted(types)]
        self.store.run(
            leases.register(
                self.store.database,
                worker,
                name="machine",
                queues=["default"],
                types=handlers,
                lease=HOUR,
            )
        )
        self.world.reference.register(worker, types)
        self.world.workers = [*self.world.workers[-WORKERS_MAX + 1 :], worker]
        self._compare("register")

    def _run(self, operation: Operation) -> None:
        answer = self._keep(self.store.run(operation.run(self.store.database)))
        expected = operation.expect(self.world.reference, (), ())
        assert answer == expected, f"{operation.name}: {answer}, not {expected}"
        self.past.append(operation)
        self._compare(operation.name)

    def _race(self, first: Operation | None, second: Operation | None, *, commits: bool) -> None:
        if first is None or second is None:
            return
        if (first.alone or second.alone) and first.worker == second.worker:
            return  # a worker claims nothing else beside
        names = f"{first.name} | {second.name} | {'commit' if commits else 'rollback'}"
        before = self.world.reference
        jobs = first.locks(before)
        ahead = before.copy()
        expected = first.expect(ahead, (), ())
        rows = {n for n, row in before.outbox.items() if ahead.outbox.get(n) != row}
        held, answer, waited = self.store.run(self.store.beside(first, second, commits=commits))
        held = self._keep(held) if commits else _plain(held)
        assert held == expected, f"{names}: {held}, not {expected}"
        after = (ahead if commits and waited else before).copy()
        expected = second.expect(after, jobs, rows)
        if commits and waited and second.name.startswith("cancel "):
            # A statement that waits does not see the rows written meanwhile, so it leaves a message
            # behind, which finds nothing to do.
            for number, row in ahead.outbox.items() - before.outbox.items():
                after.outbox.setdefault(number, row)
        answer = self._keep(answer)
        assert answer == expected, f"{names}: second {answer}, not {expected}; waited {waited}"
        if commits and not waited:
            after = merged(before, ahead, after)
        self.world.reference = after
        self._compare(f"{names}, waited {waited}")

    def _keep(self, answer: object) -> object:
        if isinstance(answer, tuple) and isinstance(answer[-1], list):
            self.world.held += [one for one in answer[-1] if one not in self.world.held]
        return _plain(answer)

    def _compare(self, after: str) -> None:
        found: Tables = self.store.run(stored(self.store.database))
        expected = told(self.world.reference)
        for name in Tables.__slots__:
            there, wanted = getattr(found, name), getattr(expected, name)
            assert there == wanted, f"{name} after {after}:\n{there}\nnot\n{wanted}"

    def _execute(self, statement: str, *arguments: object) -> None:
        self.store.run(self.store.database.execute(statement, *arguments))

    def _empty(self) -> None:
        for table in (
            *("jobs", "job_events", "runs", "outbox", "workers"),
            *("idempotency_keys", "job_steps", "dead_letters"),
        ):
            self._execute(f"DELETE FROM {table}")


def _plain(answer: object) -> object:
    """Without the claims themselves."""
    if isinstance(answer, tuple) and isinstance(answer[-1], list):
        assert all(isinstance(one, Held) for one in answer[-1])
        return answer[0]
    return answer


@pytest.fixture
def store(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Connections that are as patient as the machine they run on is slow."""
    for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
        monkeypatch.setitem(border.SESSION_SETTINGS, name, f"{PATIENCE_SECONDS}s")
    # Real seconds must not decide what is due.
    for module in (submissions, sweeps):
        monkeypatch.setattr(module, "FAST_PATH", HOUR)
    monkeypatch.setattr(claims, "DECLINE_BACKOFF_MIN", HOUR)
    monkeypatch.setattr(claims, "DECLINE_BACKOFF_MAX", HOUR)
    with asyncio.Runner() as runner:

        async def connect() -> Store:
            patience = float(PATIENCE_SECONDS)
            first = await Database.connect(
                database_url, name="first", size=2, timeout_seconds=patience
            )
            second = await Database.connect(
                database_url, name="second", size=1, timeout_seconds=patience
            )
            holder = await asyncpg.connect(
                database_url, server_settings=dict(border.SESSION_SETTINGS)
            )
            return Store(runner, first, second, holder)

        async def close(opened: Store) -> None:
            await opened.holder.close()
            await opened.second.close()
            await opened.database.close()

        opened = runner.run(connect())
        yield opened
        runner.run(close(opened))


@pytest.mark.timeout(7200 if GAMES else 300)
def test_the_store_does_what_the_reference_does(store: Store) -> None:
    """P2, P4, P5, P6, P7 and P10 as plain Python says them."""
    _play(store, [Phase.generate, Phase.shrink])


def test_a_mark_without_its_guard_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail."""
    name, guard = "mark_queued", "AND locked.dispatch_no = item.dispatch_no"
    assert guard in outbox.SQL.texts[name]
    mutated = {**outbox.SQL.texts, name: outbox.SQL.texts[name].replace(guard, "")}
    monkeypatch.setattr(outbox.SQL, "texts", mutated)
    with pytest.raises(AssertionError, match="mark"):
        _play(store, [Phase.generate])


def _play(store: Store, phases: list[Phase]) -> None:
    run_state_machine_as_test(
        lambda: Machine(store),
        settings=settings(
            max_examples=GAMES or 50,
            stateful_step_count=80 if GAMES else 40,
            derandomize=not GAMES,
            database=None,
            deadline=None,
            print_blob=bool(GAMES),
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )
