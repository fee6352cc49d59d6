"""The `headway` command as scripts use it: exit codes, JSON Lines, plain lines, Ctrl-C."""

import asyncio
import json
import signal
import uuid

import pytest

from headway import JobState
from headway_dev import ports
from tests.end_to_end.stack import ROOT, Gate, Ran, Stack, headway, reaches, run


@pytest.fixture
def stack(common_stack: Stack) -> Stack:
    return common_stack


async def command(stack: Stack, *arguments: str) -> Ran:
    return await run(headway(), *arguments, environment=stack.environment)


def payload(**fields: object) -> str:
    return json.dumps(fields)


async def test_submit_watch_ends_with_0_when_the_job_completed(stack: Stack) -> None:
    ran = await command(
        stack, "submit", "e2e.work", "--json", payload(ticks=2), "--watch", "-o", "jsonl"
    )
    assert ran.code == 0, ran.errors
    events = [line for line in ran.lines if line["update"] == "event"]
    assert events[-1]["type"] == "COMPLETED"
    assert events[-1]["job"]["result"] == {"json": {"attempt": 1, "echo": None}}
    job_id = events[-1]["job_id"]
    assert job_id in ran.errors  # stdout is the stream's alone

    shown, listed, result = await asyncio.gather(
        command(stack, "get", job_id, "-o", "json"),
        command(stack, "list", "--type", "e2e.work", "-o", "jsonl"),
        command(stack, "result", job_id),
    )
    assert json.loads(shown.output)["state"] == "COMPLETED"
    assert job_id in [line["id"] for line in listed.lines]
    assert json.loads(result.output) == {"attempt": 1, "echo": None}


async def test_submit_watch_ends_with_1_when_the_job_died(stack: Stack) -> None:
    """Piped, there is one plain line for each change, and the dead letter can be brought back."""
    ran = await command(stack, "submit", "e2e.work", "--json", payload(die=True), "--watch")
    assert ran.code == 1, ran.errors
    last = ran.output.splitlines()[-1]
    assert "DEAD" in last
    assert "this cannot work" in last
    assert "\x1b" not in ran.output

    letters = await command(stack, "dead", "list", "-o", "jsonl")
    assert letters.lines[0]["job"]["error"]["type"] == "PermanentError"
    replayed = await command(stack, "replay", letters.lines[0]["job"]["id"], "-o", "json")
    assert (replayed.code, json.loads(replayed.output)["replayed_count"]) == (0, 1)


async def test_submit_watch_ends_with_3_when_the_job_was_cancelled(
    stack: Stack, gate: Gate
) -> None:
    watching = asyncio.create_task(
        command(
            stack,
            *("submit", "e2e.work", "--json", payload(until=str(gate))),
            *("--label", "cancel=me", "--watch"),
        )
    )
    async with stack.client() as client:
        job_id = ""
        while not job_id:
            async for job in client.list(labels={"cancel": "me"}, states=[JobState.RUNNING]):
                job_id = job.id
            await asyncio.sleep(0.05)
        cancelled = await command(stack, "cancel", job_id, "--reason", "not needed")
        assert cancelled.code == 0, cancelled.errors
        await reaches(client, job_id, JobState.CANCELLED)
    assert (await watching).code == 3


async def test_what_is_not_there_is_4_and_who_is_not_there_is_5(stack: Stack) -> None:
    unknown = str(uuid.uuid4())
    nobody = f"{ports.LOOPBACK}:{ports.free_port()}"
    not_there, not_listed, away, misspelt = await asyncio.gather(
        command(stack, "watch", unknown),
        command(stack, "get", unknown),
        command(stack, "get", unknown, "--target", nobody),
        command(stack, "submit", "e2e.work", "--jsn", "{}"),
    )
    assert (not_there.code, not_listed.code) == (4, 4)
    assert unknown in not_listed.errors
    assert away.code == 5
    assert nobody in away.errors
    assert misspelt.code == 2


async def test_a_wait_ends_with_124_and_ctrl_c_with_130_and_the_job_goes_on(
    stack: Stack, gate: Gate
) -> None:
    """Ctrl-C detaches: it says how to come back, and nobody cancels anything."""
    async with stack.client() as client:
        job = await client.submit("e2e.work", {"until": str(gate)})
        await reaches(client, job.id, JobState.RUNNING)
        waited = await command(stack, "wait", job.id, "--timeout", "0.3")
        assert waited.code == 124

        process = await asyncio.create_subprocess_exec(
            *(headway(), "watch", job.id),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**stack.environment, "PATH": ""},
            cwd=ROOT,
        )
        assert process.stdout is not None
        await process.stdout.readline()  # it watches
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 130
        assert f"headway watch {job.id}" in errors.decode()

        assert (await client.get(job.id)).state is JobState.RUNNING
        gate.open()
        again = await command(stack, "wait", job.id, "-o", "jsonl")
        assert (again.code, again.lines[0]["state"]) == (0, "COMPLETED")
