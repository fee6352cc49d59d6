"""A game: transitions at random on the store and on the reference, all tables compared after each.

In a race one operation is held in an open transaction while another runs beside it on a connection
of its own, until that one is done or waits for a lock; then the first is committed or rolled back.
In a pause the first is stopped between two of its statements, and up to three others run meanwhile.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final
from uuid import uuid4

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from headway_core import leases
from headway_core.job import RetryPolicy
from tests.store.machine import serving, supervising, working
from tests.store.machine.answers import after_wait, locked_by, words
from tests.store.machine.choices import SEVERAL, STATEMENTS_MAX, Choice
from tests.store.machine.connections import Store
from tests.store.machine.reading import Tables, stored, told
from tests.store.machine.world import FITTING_MAX, HOUR, NUMBERS_MAX, TYPES, Held, Operation, World

WORKERS_MAX: Final = 3
SCENES: Final = ("running", "queued", "stranded", "dead", "alone")

lots = st.integers(0, 2**32 - 1)
choices = lots.map(Choice)
several = lots.map(lambda lot: Choice(lot, SEVERAL))
numbers = lots.map(lambda lot: Random(lot).randint(0, NUMBERS_MAX))
flags = st.booleans()


class Machine(RuleBasedStateMachine):
    """One game. `seen` counts what was answered, and what waited."""

    def __init__(self, store: Store, seen: "Counter[str]") -> None:
        super().__init__()
        self.store = store
        self.seen = seen
        self.world = World()
        self.past: list[Operation] = []
        self._empty()
        seen["games"] += 1

    @initialize(scenes=st.lists(st.sampled_from(SCENES), min_size=2, max_size=4))
    def begin(self, scenes: list[str]) -> None:
        """Two workers, and jobs that have come as far as a scene says; the first one runs."""
        for types in (TYPES[1], TYPES[0]):
            self._register(types)
        for n, scene in enumerate(["running", *scenes]):
            self._submit("noop" if n else "rare")
            self.world.focus = list(self.world.reference.jobs)[-1]
            self._play(scene, 2 * n)
        self.world.focus = None

    def _play(self, scene: str, n: int) -> None:
        if scene in ("queued", "stranded"):
            self._run(serving.fast_path(self.world))
        if scene == "queued":
            self._run(serving.mark(self.world, jobs=[n], back=0))
        ends = {"dead": ["failed for good"], "alone": ["suspect", "suspect"], "running": [""]}
        for end in ends.get(scene, []):
            self._run(working.claim(self.world, jobs=[n], worker=n))
            given = {"ends": [end], "in_hand": True, "progress": None}
            if end and (settle := working.settle(self.world, runs_=[n], **given)):
                self._run(settle)

    def _submit(self, type_: str) -> None:
        item = {"type": type_, "priority": 4, "key": None, "text": "", "due": True}
        self._run(serving.submit(self.world, items=[{**item, "patient": False}], queue=None))

    @rule(choice=choices)
    def run(self, choice: Choice) -> None:
        """Whatever it is."""
        self._staff()
        if operation := choice(self.world):
            self._run(operation)

    @rule(choice=choices)
    def run_twice(self, choice: Choice) -> None:
        """Its first reply was lost."""
        self._staff()
        if operation := choice(self.world):
            self._run(operation)
            self._run(operation)

    @precondition(lambda self: self.past)
    @rule(back=st.integers(1, 12))
    def run_late(self, back: int) -> None:
        """A try of long ago reaches Postgres only now."""
        self._run(self.past[-min(back, len(self.past))])

    @rule(first=choices, second=choices, commits=flags, n=numbers)
    def race(self, first: Choice, second: Choice, commits: bool, n: int) -> None:
        """The second meets the first's locks, most of the time at the same job."""
        self._meet(first, [second], n, commits=commits)

    @rule(
        first=several,
        others=st.lists(choices, min_size=1, max_size=3),
        after=st.integers(1, STATEMENTS_MAX),
        commits=flags,
        n=numbers,
    )
    def pause(self, first: Choice, others: list[Choice], after: int, commits: bool, n: int) -> None:
        """The others come between two statements of one transaction."""
        self._meet(first, others, n, commits=commits, pause_after=after)

    @rule(choice=choices, commits=flags)
    def race_itself(self, choice: Choice, commits: bool) -> None:
        """A rerun begins while the original still runs."""
        self._staff()
        if operation := choice(self.world):
            self._held(operation, [operation], commits=commits)

    @rule(what=st.sampled_from(["time", "time", "time", "lapse", "worker"]), n=numbers)
    def world_changes(self, what: str, n: int) -> None:
        """What nobody's transition brings about."""
        self._staff()
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
        running = self.world.reference.running
        worker = self.world.worker(n, lambda id_: bool(running(id_)))
        rows = self.world.reference.workers
        if worker in rows:
            rows[worker] = replace(rows[worker], lapsed=True)
        self._execute("UPDATE workers SET lease_expires = clock_timestamp() WHERE id = $1", worker)
        self._compare("a lease lapses")
        self._run(supervising.find_lapsed(self.world))

    def _staff(self) -> None:
        """There is always a job, and a worker that lives."""
        if not any(self.world.reference.lease(one).live for one in self.world.workers):
            self._register(TYPES[1])
        if not self.world.reference.jobs:
            self._submit("noop")

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
        note(operation.name)
        answer = self._keep(operation, self.store.run(operation.run(self.store.database)))
        expected = operation.expect(self.world.reference, (), ())
        assert answer == expected, f"{operation.name}: {answer}, not {expected}"
        self.past.append(operation)
        self._compare(operation.name)

    def _meet(
        self,
        first: Choice,
        others: Sequence[Choice],
        n: int,
        *,
        commits: bool,
        pause_after: int | None = None,
    ) -> None:
        self._staff()
        if n <= FITTING_MAX:
            self.world.focus = self.world.job(n, lambda job: job.run_epoch > 0)
        try:
            beginning = first(self.world)
            rest = [one for other in others if (one := other(self.world))]
        finally:
            self.world.focus = None
        if beginning and rest:
            self._held(beginning, rest, commits=commits, pause_after=pause_after)

    def _held(
        self,
        first: Operation,
        others: list[Operation],
        *,
        commits: bool,
        pause_after: int | None = None,
    ) -> None:
        alone = any(one.alone for one in (first, *others))
        workers = [one.worker for one in (first, *others) if one.worker]
        if alone and len(set(workers)) < len(workers):
            return  # a worker claims nothing else beside
        before = self.world.reference
        met = self.store.run(
            self.store.meet(first, others, commits=commits, pause_after=pause_after)
        )
        others = others[: len(met.others)]
        names = " | ".join(one.name for one in (first, *others))
        names += f" | {'commit' if commits else 'rollback'}, waited {met.waited}"
        names += f", after statement {pause_after}" if met.paused else ""
        note(names)
        self.seen["waited"] += met.waited
        self.seen["paused"] += met.paused
        rows = first.rows(before)
        answers = [self._keep(*one) for one in zip(others, met.others, strict=True)]
        # One that had its answer at once met the first's locks and saw none of its changes.
        between = before.copy()
        for one, answer in zip(others[: len(others) - met.waited], answers, strict=False):
            skipped = (first.locks(before), rows) if one.skips else ((), ())
            expected = one.expect(between, *skipped)
            assert answer == expected, f"{names}: {one.name} {answer}, not {expected}"
        # If it was stopped, it looks again and sees what they did; else it saw what was before.
        since = between if met.paused else before
        ahead = since.copy()
        theirs = locked_by(others[-1], since, first.locks(before)) if met.waited else set()
        expected = first.expect(ahead, theirs if met.paused else (), ())
        held = self._keep(first, met.first, stands=commits)
        assert held == expected, f"{names}: {held}, not {expected}"
        after = ahead if commits else between
        if commits and not (met.paused or met.waited):
            after = before.merged(ahead, between)
        if met.waited:
            after = after.copy()
            became = ahead if commits else since
            expected = after_wait(others[-1], after, since, became, first.locks(before))
            assert answers[-1] == expected, f"{names}: last {answers[-1]}, not {expected}"
        self.world.reference = after
        self._compare(names)

    def _keep(self, operation: Operation, answer: object, *, stands: bool = True) -> object:
        """An answer without the claims in it, which their worker now holds."""
        if isinstance(answer, tuple) and isinstance(answer[-1], list):
            answer, claimed = answer
            assert all(isinstance(one, Held) for one in claimed)
            if stands:
                self.world.held += [one for one in claimed if one not in self.world.held]
        self.seen["operations"] += 1
        for word in words(answer):
            self.seen[f"{operation.kind}: {word}"] += 1
        return answer

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
        self._execute("DELETE FROM queues WHERE name <> 'default'")
