"""Live bars on a terminal, and Ctrl-C, which lets go of a job without ending it."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator

import pytest

from tests.client.command import WITHIN, Terminal, finish, start
from tests.client.scripted_server import ScriptedJob, ScriptedServer, ScriptedService


@pytest.fixture
async def terminal() -> AsyncIterator[Terminal]:
    opened = Terminal()
    yield opened
    await opened.end()


async def streams(service: ScriptedService, count: int) -> None:
    async with asyncio.timeout(WITHIN):
        while service.open_streams < count:  # noqa: ASYNC110 - the scripted server's state
            await asyncio.sleep(0.02)


async def test_bars_show_step_eta_retry_and_end(
    server: ScriptedServer, service: ScriptedService, terminal: Terminal
) -> None:
    good, bad = await service.add("report.pdf"), await service.add("video.transcode")
    await terminal.run(server.target, "watch", good.job.id, bad.job.id)
    await terminal.until(r"· report\.pdf +00000001 .*pending")
    await good.start()
    await good.advance(31, 50, "render", "page 31")
    await terminal.until(r"report\.pdf .*━+╸?━* +62% render: page 31 · 1\ds left")
    await bad.start()
    await bad.retry("codec is away")
    await terminal.until(r"↻ video\.transcode .*attempt 1/5 failed · ValueError: codec is away")
    await bad.start(2)
    await terminal.until(r"[⠋-⠿] video\.transcode .*attempt 2/5")
    await bad.die("gave up")
    await good.complete()
    await terminal.until(r"1 completed · 1 dead")
    assert await terminal.wait() == 1
    last = terminal.frames()[-2]
    assert re.match(r"✓ report\.pdf +00000001 ━{24} 100% completed", last[0])
    assert re.match(r"✗ video\.transcode 00000002 .*dead · ValueError: gave up", last[1])
    shown, hidden = (terminal.raw.rfind(code) for code in (b"\x1b[?25h", b"\x1b[?25l"))
    assert shown > hidden, "the cursor is shown again"


async def test_more_jobs_than_lines_are_counted(
    server: ScriptedServer, service: ScriptedService, terminal: Terminal
) -> None:
    """The running ones are shown, wherever they stand; the terminal may change its size."""
    jobs = [await service.add() for _ in range(30)]
    terminal.resize(8, 80)
    await terminal.run(server.target, "watch", *(item.job.id for item in jobs))
    await terminal.until(r"\+24 more · 30 pending")
    await jobs[27].start()
    await terminal.until(r"[⠋-⠿] demo\.job 00000028")
    assert {len(frame) for frame in terminal.frames()[:-1]} <= {1, 7}
    terminal.resize(12, 60)
    await terminal.until(r"\+20 more")
    wide = [line for frame in terminal.frames()[-3:] for line in frame if len(line) >= 60]
    assert wide == []
    terminal.resize(4, 30)
    await terminal.until(r"\+28 more")
    for item in jobs:
        await item.complete()
    assert await terminal.wait() == 0


async def test_bars_survive_a_restart(
    server: ScriptedServer, service: ScriptedService, terminal: Terminal
) -> None:
    jobs = [await service.add() for _ in range(3)]
    await terminal.run(server.target, "watch", *(item.job.id for item in jobs))
    await terminal.until("3 pending")
    await server.stop()
    await terminal.until("no connection, trying again")
    for item in jobs:
        await item.complete()
    await server.start()
    assert await terminal.wait() == 0
    assert "no connection" not in "".join(terminal.frames()[-2])


@pytest.mark.parametrize("verb", ["watch", "wait", "result"])
async def test_ctrl_c_lets_go_and_says_how_to_come_back(
    server: ScriptedServer, service: ScriptedService, terminal: Terminal, verb: str
) -> None:
    scripted = await service.add()
    terminal.resize(24, 300)
    await terminal.run(server.target, "--target", server.target, verb, scripted.job.id)
    await streams(service, 1)
    terminal.press(b"\x03")
    assert await terminal.wait() == 130
    again = f"headway {verb} {scripted.job.id} --target {server.target}"
    assert f"detached, the job goes on; come back with: {again}" in terminal.text
    assert "Traceback" not in terminal.text
    assert not scripted.job.done
    assert service.requests("CancelJob") == []


async def test_sigint_lets_go_of_a_submitted_job(
    server: ScriptedServer, service: ScriptedService
) -> None:
    process = await start(server.target, "submit", "demo.job", "--watch", "-o", "jsonl")
    await streams(service, 1)
    process.send_signal(signal.SIGINT)
    ran = await finish(process)
    (job_id,) = service.jobs
    assert ran.code == 130
    assert f"come back with: headway watch {job_id}\n" in ran.err
    assert "Traceback" not in ran.err


async def test_an_evil_message_does_not_steer_the_terminal(
    server: ScriptedServer, service: ScriptedService, terminal: Terminal
) -> None:
    scripted: ScriptedJob = await service.add("evil")
    await terminal.run(server.target, "watch", scripted.job.id)
    await terminal.until("pending")
    await scripted.start()
    await scripted.advance(1, 2, "\x1b]0;owned\x07step", "a\nb\x1b[2J")
    await terminal.until("step")
    await scripted.complete()
    assert await terminal.wait() == 0
    assert b"\x1b]0;" not in terminal.raw
    assert b"\x1b[2J" not in terminal.raw
