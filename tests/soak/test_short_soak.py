"""A soak of seconds, and a thousand jobs: that the tools work, and can find something."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from headway_dev.services import AMQP_VARIABLE, DATABASE_VARIABLE
from tests.soak.handlers import COUNTS_VARIABLE
from tests.soak.million import executions

SEED = 167
KINDS = "executor.kill,supervisor.term,server.kill,postgres.stop,postgres.reset,rabbitmq.reset"
"""Of which three come in nine seconds: connections reset, an executor killed, Postgres stopped."""
SECONDS_MAX = 200.0


@pytest.fixture(autouse=True)
def _services_of_our_own() -> None:
    for variable in (DATABASE_VARIABLE, AMQP_VARIABLE):
        if os.environ.get(variable):
            pytest.skip(f"{variable} is set, and that service is not ours to kill")


async def run(*arguments: str) -> tuple[int | None, str]:
    """The tool as a process: it owns services, and leaves none behind."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS_MAX):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()  # the guardian of its services ends them
            await process.wait()
    print(output.decode())
    return process.returncode, output.decode()


@pytest.mark.slow
@pytest.mark.faults
async def test_a_short_soak_finds_nothing(tmp_path: Path) -> None:
    """P1, P2, P5, P6: every job of the load is done, and every history is whole."""
    code, output = await run(
        *("--seed", str(SEED), "--seconds", "9", "--rate", "15", "--kinds", KINDS),
        *("--data", str(tmp_path / "soak")),
    )
    assert code == 0, output
    assert "verdict: nothing lost, nothing wrong" in output
    survived = re.search(r"faults survived: (\d+)", output)
    assert survived is not None
    assert int(survived[1]) == 3


@pytest.mark.slow_faults
async def test_jobs_without_faults_run_exactly_once(tmp_path: Path) -> None:
    """P2, P5: the handler's own count and the tables agree."""
    code, output = await run(
        *("--no-faults", "--jobs", "1500", "--data", str(tmp_path / "soak")),
    )
    assert code == 0, output
    for line in ("0 jobs never executed", "0 jobs executed twice", "0 histories with gaps"):
        assert line in output


def test_a_second_execution_is_seen(tmp_path: Path) -> None:
    """In another process, too: each has a file of its own."""
    (tmp_path / "1.counts").write_bytes(bytes([1, 0, 1, 2, 0]))
    (tmp_path / "2.counts").write_bytes(bytes([0, 1, 1, 0, 0]))
    assert executions(tmp_path, 5) == (1, 2)
    assert COUNTS_VARIABLE.startswith("HEADWAY_TEST_")
