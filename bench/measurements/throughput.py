"""Jobs a second: submitting, end to end, draining."""

from functools import partial

from bench.cpu import CpuMeter, Watched, peak_mib
from bench.measurements.composite import Composite
from bench.measurements.plan import Measurement, Plan
from bench.program import Program
from bench.stage import Headway

SLOTS = 200
CALLS_IN_FLIGHT = {1: 64, 32: 8}
WARM_UP_CALLS = 64
SUBMIT_SECONDS = 2.0
END_TO_END_JOBS = {1: 6_000, 32: 9_600}
DRAIN_JOBS = {200: 10_000, 50: 5_000, 10: 2_500}
PRELOAD_BATCH = 32
PRELOAD_CALLS = 4
MEMORY = ("executor_memory", "supervisor_memory", "server_memory")
TRACES_OF = {"": "default", "_traces_all": "all", "_traces_off": "off"}


System = Headway | Composite


async def load(subject: str, address: str, *, batch: int, in_flight: int | None = None) -> Program:
    """Start a client; `go` says how much."""
    calls = in_flight or CALLS_IN_FLIGHT[batch]
    return await Program.start(
        "bench.clients.load", subject=subject, address=address, batch=batch, in_flight=calls
    )


async def _submit(
    plan: Plan, row: str, system: System | Program, *, batch: int
) -> tuple[float, dict[str, float]]:
    """Jobs a second that are accepted, and the CPU time of each."""
    if isinstance(system, Program):
        subject, watched = "echo", {"server": Watched(system.pid)}
    else:
        subject, watched = system.subject, system.watched()
    async with await load(subject, system.address, batch=batch) as client:
        await client.go(jobs=plan.jobs(WARM_UP_CALLS) * batch)
        async with plan.profiled(system, row):
            meter = CpuMeter({"client": Watched(client.pid), **watched})
            meter.begin()
            done = await client.go(seconds=plan.seconds(SUBMIT_SECONDS))
            return done["jobs"] / done["seconds"], meter.microseconds(done["jobs"])


async def submit_unary(plan: Plan) -> None:
    """One job a call, beside a bare echo."""
    row = "submit_unary"
    async with await Program.start("bench.floors.echo") as echo:
        plan.samples.add_floor([row], *await _submit(plan, row, echo, batch=1))
    async with Headway.running(plan.stage) as headway:
        plan.samples.add(row, *await _submit(plan, row, headway, batch=1))


async def submit_batch(plan: Plan) -> None:
    """32 jobs a call, beside the composite."""
    row = "submit_batch32"
    async with Composite.running(plan.stage) as composite:
        plan.samples.add_floor([row], *await _submit(plan, row, composite, batch=32))
    async with Headway.running(plan.stage) as headway:
        plan.samples.add(row, *await _submit(plan, row, headway, batch=32))


async def _end_to_end(
    plan: Plan, row: str, system: System, *, batch: int
) -> tuple[float, dict[str, float]]:
    """Jobs a second from the first submit to the last completion."""
    async with await load(system.subject, system.address, batch=batch) as client:
        warm_up = plan.jobs(WARM_UP_CALLS) * batch
        await client.go(jobs=warm_up)
        await system.until_done()
        async with plan.profiled(system, row):
            meter = CpuMeter({"client": Watched(client.pid), **system.watched()})
            meter.begin()
            done = await client.go(jobs=plan.jobs(END_TO_END_JOBS[batch], batch=batch))
            await system.until_done()
            cpu = meter.microseconds(done["jobs"])
        ran = await system.place.ran(at_least=warm_up + done["jobs"])
        return done["jobs"] / (ran.last_end - done["begun"]), cpu


async def end_to_end(plan: Plan, *, name: str, batch: int) -> None:
    """Submitted and run, with traces as by default, all, and none."""
    rows = [name + suffix for suffix in TRACES_OF]
    async with Composite.running(plan.stage, slots=SLOTS) as composite:
        plan.samples.add_floor(rows, *await _end_to_end(plan, name, composite, batch=batch))
    for row, traces in zip(rows, TRACES_OF.values(), strict=True):
        with_memory = row == "end_to_end_batch32"
        if row not in plan.wanted and not (with_memory and plan.wanted & set(MEMORY)):
            continue
        async with Headway.running(plan.stage, slots=SLOTS, traces=traces) as headway:
            plan.samples.add(row, *await _end_to_end(plan, row, headway, batch=batch))
            if with_memory:
                for memory in MEMORY:
                    pid = headway.pid(memory.removesuffix("_memory"))
                    plan.samples.add(memory, peak_mib(pid))


async def _drain(
    plan: Plan, row: str, system: System, *, slots: int
) -> tuple[float, dict[str, float]]:
    """Jobs a second from the first start to the last completion, all of them preloaded."""
    jobs = plan.jobs(DRAIN_JOBS[slots], batch=PRELOAD_BATCH)
    async with await load(
        system.subject, system.address, batch=PRELOAD_BATCH, in_flight=PRELOAD_CALLS
    ) as client:
        await client.go(jobs=jobs)
    await system.until_relayed()
    await system.start_worker(slots)
    async with plan.profiled(system, row):
        meter = CpuMeter(system.watched())
        meter.begin()
        await system.until_done()
        cpu = meter.microseconds(jobs)
    ran = await system.place.ran(at_least=jobs)
    return jobs / (ran.last_end - ran.first_start), cpu


async def drain(plan: Plan, *, slots: int, rows: dict[str, str]) -> None:
    """A backlog that the broker holds, one executor. `rows` maps names to settings of traces."""
    async with Composite.running(plan.stage) as composite:
        first = next(iter(rows))
        plan.samples.add_floor(list(rows), *await _drain(plan, first, composite, slots=slots))
    for row, traces in rows.items():
        if row in plan.wanted:
            async with Headway.running(plan.stage, traces=traces) as headway:
                plan.samples.add(row, *await _drain(plan, row, headway, slots=slots))


def _end_to_end_rows(name: str) -> tuple[str, ...]:
    return tuple(name + suffix for suffix in TRACES_OF)


_DRAIN_ROWS = {f"drain{suffix}": traces for suffix, traces in TRACES_OF.items()}
MEASUREMENTS = (
    Measurement(("submit_unary",), submit_unary),
    Measurement(("submit_batch32",), submit_batch),
    Measurement(
        _end_to_end_rows("end_to_end_unary"), partial(end_to_end, name="end_to_end_unary", batch=1)
    ),
    Measurement(
        (*_end_to_end_rows("end_to_end_batch32"), *MEMORY),
        partial(end_to_end, name="end_to_end_batch32", batch=32),
    ),
    Measurement(tuple(_DRAIN_ROWS), partial(drain, slots=200, rows=_DRAIN_ROWS)),
    Measurement(("drain_50_slots",), partial(drain, slots=50, rows={"drain_50_slots": "default"})),
    Measurement(("drain_10_slots",), partial(drain, slots=10, rows={"drain_10_slots": "default"})),
)
