"""The commands: what they print where, and how they exit."""

import asyncio
import json
from pathlib import Path

import pytest

from headway import v1
from tests.client.command import WITHIN, environment, finish, run, start
from tests.client.refusals import error_info
from tests.client.scripted_job import ScriptedJob
from tests.client.scripted_server import Fault, ScriptedServer, ScriptedService


async def quick(scripted: ScriptedJob) -> None:
    await scripted.start()
    await scripted.advance(1, 2, "render", "page 1")
    await scripted.complete(pages=12)


async def fatal(scripted: ScriptedJob) -> None:
    await scripted.start()
    await scripted.retry()
    await scripted.start(2)
    await scripted.die("no luck at all")


async def cancelled(scripted: ScriptedJob) -> None:
    await scripted.event("CANCELLED", "CANCELLED", "not wanted")


PILOTS = {"good": quick, "bad": fatal, "cut": cancelled}


@pytest.fixture(autouse=True)
def _pilots(service: ScriptedService) -> None:
    service.pilots = PILOTS


async def test_submit_prints_the_id_alone(server: ScriptedServer, service: ScriptedService) -> None:
    """So that ID=$(headway submit …) works; words for people are on stderr."""
    ran = await run(
        server.target,
        *("submit", "report.pdf", "--json", '{"country": "FR"}', "--priority", "9"),
        *("--queue", "bulk", "--key", "k1", "--delay", "1m30s", "--timeout", "5m"),
        *("--label", "team=billing", "--label", "x=a=b", "--max-attempts", "2"),
    )
    assert (ran.code, ran.text.strip(), ran.err) == (0, next(iter(service.jobs)), "")
    request = service.requests("SubmitJob")[0]
    assert isinstance(request, v1.SubmitJobRequest)
    assert request.payload.json["country"] == "FR"
    assert (request.priority, request.queue, request.idempotency_key) == (9, "bulk", "k1")
    assert (request.delay.seconds, request.timeout.seconds) == (90, 300)
    assert request.labels == {"team": "billing", "x": "a=b"}
    assert request.retry_policy.max_attempts == 2
    again = await run(server.target, "submit", "report.pdf", "--key", "k1")
    assert again.out == ran.out
    assert "already submitted" in again.err


async def test_payloads_come_from_files_and_stdin(
    server: ScriptedServer, service: ScriptedService, tmp_path: Path
) -> None:
    document, picture = tmp_path / "payload.json", tmp_path / "picture.png"
    document.write_text('{"from": "file"}')
    picture.write_bytes(b"\x89PNG\x00")
    await asyncio.gather(
        run(server.target, "submit", "a", "--json", f"@{document}"),
        run(server.target, "submit", "b", "--json", "-", stdin=b'{"from": "stdin"}'),
        run(server.target, "submit", "c", "--data", str(picture), "--content-type", "image/png"),
        run(server.target, "submit", "d", "--data", "-", stdin=b"raw\xff"),
    )
    payloads = {request.type: request.payload for request in service.requests("SubmitJob")}
    assert payloads["a"].json["from"] == "file"
    assert payloads["b"].json["from"] == "stdin"
    assert (payloads["c"].data, payloads["c"].content_type) == (b"\x89PNG\x00", "image/png")
    assert payloads["d"].data == b"raw\xff"


USAGE = [
    (("submit", "a", "--json", "[1]"), "a payload is an object"),
    (("submit", "a", "--json", "{nope"), "not JSON"),
    (("submit", "a", "--json", '{"a": NaN}'), "JSON has no NaN"),
    (("submit", "a", "--json", '{"a": 9007199254740993}'), "payload.json.a"),
    (("submit", "a", "--json", "@/no/such/file"), "cannot read /no/such/file"),
    (("submit", "a", "--json", "{}", "--data", "-"), "not both"),
    (("submit", "a", "--delay", "soon"), "no duration"),
    (("submit", "a", "--label", "x"), "write key=value"),
    (("submit", "NOT A TYPE"), "must match [a-z0-9._-]{1,128}; priority: must be 0 to 9"),
    (("submit",), "TYPE"),
    (("nonsense",), "Unknown command"),
    (("list", "--nonsense"), "headway list --help"),
    (("list", "--state", "sleeping"), "there are pending, queued, running"),
    (("list", "-o", "yaml"), "yaml"),
    (("replay",), "scripted"),
    (("replay", "x", "--all"), "name one job, or a filter, or --all"),
    (("--target", "http://127.0.0.1:1", "list"), "without http"),
    (("--target",), "--target"),
]


async def test_usage_errors_exit_2_and_say_what_to_change(
    server: ScriptedServer, service: ScriptedService
) -> None:
    import grpc

    from headway.v1 import ErrorReason  # noqa: F401 - the reason below is one of these

    fault = Fault(
        "ReplayDeadLetter",
        grpc.StatusCode.INVALID_ARGUMENT,
        (error_info("FILTER_REQUIRED"),),
        message="scripted",
    )
    service.faults.append(fault)
    limit = asyncio.Semaphore(4)

    async def one(arguments: tuple[str, ...], words: str) -> None:
        async with limit:
            ran = await run(server.target, *arguments)
        assert ran.code == 2, (arguments, ran)
        assert words in ran.err, (arguments, ran)
        assert ran.out == b"", (arguments, ran)
        assert "Traceback" not in ran.err

    await asyncio.gather(*(one(arguments, words) for arguments, words in USAGE))


async def test_exit_codes_tell_how_a_job_ended(server: ScriptedServer) -> None:
    good, bad, cut = await asyncio.gather(
        *(run(server.target, "submit", type_, "--watch") for type_ in ("good", "bad", "cut"))
    )
    assert (good.code, bad.code, cut.code) == (0, 1, 3)
    assert "COMPLETED" in good.text.splitlines()[-1]
    assert bad.text.splitlines()[-1].endswith("ValueError: no luck at all")
    assert "CANCELLED" in cut.text.splitlines()[-1]
    assert good.err.startswith("submitted ")


async def test_of_several_jobs_the_worst_end_counts(
    server: ScriptedServer, service: ScriptedService
) -> None:
    ids = {}
    for type_, pilot in PILOTS.items():
        scripted = await service.add(type_)
        await pilot(scripted)
        ids[type_] = scripted.job.id
    good, bad, cut = ids["good"], ids["bad"], ids["cut"]
    ran = await asyncio.gather(
        run(server.target, "wait", good),
        run(server.target, "wait", good, cut),
        run(server.target, "wait", good, cut, bad),
        run(server.target, "watch", good, bad, "no-such-job"),
    )
    assert [item.code for item in ran] == [0, 3, 1, 4]
    assert "no job has the ID no-such-job" in ran[3].err
    header, *rows = ran[2].text.splitlines()
    assert header.split() == ["ID", "TYPE", "STATE", "TOOK", "ERROR"]
    assert rows[2].endswith("DEAD             ValueError: no luck at all")


async def test_result_prints_what_the_job_returned(
    server: ScriptedServer, service: ScriptedService
) -> None:
    as_json = await service.add()
    await as_json.complete(pages=12)
    as_bytes = await service.add()
    payload = v1.Payload(data=b"\x00raw\xff", content_type="image/png")
    await as_bytes.event("COMPLETED", "COMPLETED", result=payload)
    dead = await service.add()
    await dead.die()
    first, raw, document, died, never = await asyncio.gather(
        run(server.target, "result", as_json.job.id),
        run(server.target, "result", as_bytes.job.id),
        run(server.target, "result", as_bytes.job.id, "-o", "json"),
        run(server.target, "result", dead.job.id),
        run(server.target, "result", (await service.add()).job.id, "--timeout", "0.3s"),
    )
    assert json.loads(first.text) == {"pages": 12}
    assert raw.out == b"\x00raw\xff"
    assert json.loads(document.text) == {"data": "AHJhd/8=", "content_type": "image/png"}
    assert (died.code, died.out) == (1, b"")
    assert "died: ValueError: no luck" in died.err
    assert (never.code, never.out) == (124, b"")


async def test_get_and_list_in_every_format(
    server: ScriptedServer, service: ScriptedService
) -> None:
    one = await service.add("report.pdf", payload=v1.Payload(data=b"in"))
    one.job.labels["team"] = "billing"
    await one.start()
    await one.advance(1, 4, "render", "page\x1b[31m 1")
    two = await service.add("report.csv")
    target = server.target
    table, document, events, listed, array, lines, chosen = await asyncio.gather(
        run(target, "get", one.job.id),
        run(target, "get", one.job.id, "--full", "-o", "json"),
        run(target, "get", one.job.id, "--events", "-o", "jsonl"),
        run(target, "list"),
        run(target, "list", "-o", "json"),
        run(target, "-o", "jsonl", "list"),
        run(
            target, "list", "--type", "report.pdf", "--state", "Running", "--label", "team=billing"
        ),
    )
    assert "state     RUNNING" in table.text
    assert "\x1b" not in table.text
    full = json.loads(document.text)
    assert (full["id"], full["state"]) == (one.job.id, "RUNNING")
    assert full["payload"] == {"data": "aW4="}
    assert full["progress"]["estimated_remaining_seconds"] == 3
    kinds = [json.loads(line)["type"] for line in events.text.splitlines()]
    assert kinds == ["SUBMITTED", "STARTED"]
    assert [line.split()[0] for line in listed.text.splitlines()] == ["ID", two.job.id, one.job.id]
    assert [item["id"] for item in json.loads(array.text)] == [two.job.id, one.job.id]
    assert [json.loads(line)["id"] for line in lines.text.splitlines()] == [two.job.id, one.job.id]
    assert chosen.text.count("\n") == 2
    assert all(ran.code == 0 for ran in (table, document, events, listed, array, lines, chosen))


async def test_dead_letters_are_listed_grouped_and_replayed(
    server: ScriptedServer, service: ScriptedService
) -> None:
    for number in range(3):
        await (await service.add("bad")).die(f"no luck {number}")
    listed, groups, trial = await asyncio.gather(
        run(server.target, "dead", "list"),
        run(server.target, "dead", "list", "--group", "-o", "json"),
        run(server.target, "replay", "--type", "bad", "--dry-run", "--max", "2"),
    )
    assert "ValueError: no luck 1" in listed.text
    assert [group["count"] for group in json.loads(groups.text)] == [3]
    assert "2 would be replayed; more match" in trial.err
    first = next(iter(service.jobs))
    one = await run(server.target, "replay", first)
    assert (one.code, one.err) == (0, "1 replayed\n")
    not_dead = await run(server.target, "replay", first)
    assert not_dead.code == 2
    assert "is PENDING; only DEAD jobs can be replayed" in not_dead.err
    rest = await run(server.target, "replay", "--all", "-o", "json")
    assert json.loads(rest.text)["replayed_count"] == 2


async def test_cancel_goes_on_after_an_unknown_job(
    server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    ran = await run(server.target, "cancel", "nope", scripted.job.id, "--reason", "not wanted")
    assert ran.code == 4
    assert "no job has the ID nope" in ran.err
    assert f"{scripted.job.id}  demo.job  CANCELLED" in ran.text
    assert service.requests("CancelJob")[-1].reason == "not wanted"


async def test_watch_writes_an_object_for_each_event(
    server: ScriptedServer, service: ScriptedService
) -> None:
    scripted = await service.add()
    process = await start(server.target, "watch", scripted.job.id, "-o", "jsonl")
    assert process.stdout is not None
    snapshot = json.loads(await process.stdout.readline())
    assert (snapshot["update"], snapshot["sequence"]) == ("snapshot", 1)
    await fatal(scripted)
    ran = await finish(process)
    updates = [json.loads(line) for line in ran.text.splitlines()]
    events = [update for update in updates if update["update"] == "event"]
    assert [event["sequence"] for event in events] == [2, 3, 4, 5]
    assert [event["type"] for event in events] == ["STARTED", "RETRY_SCHEDULED", "STARTED", "DEAD"]
    assert events[-1]["job"]["error"]["message"] == "no luck at all"
    assert (ran.code, ran.err) == (1, "")


async def test_watch_goes_on_over_a_restart_and_says_so_once(
    server: ScriptedServer, service: ScriptedService
) -> None:
    jobs = [await service.add() for _ in range(3)]
    process = await start(server.target, "watch", *(item.job.id for item in jobs))
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN):
        for _ in jobs:  # what arrives after the first break would be the end of an outage
            assert b"PENDING" in await process.stdout.readline()
    await server.stop()
    for item in jobs:
        await item.complete()
    await server.start()
    ran = await finish(process)
    assert ran.code == 0
    assert ran.text.count("COMPLETED") == 3
    assert ran.err.count("no connection, trying again") == 1


async def test_nobody_at_the_target_exits_5(server: ScriptedServer) -> None:
    await server.stop()
    ran = await run(None, "--target", server.target, "list")
    assert (ran.code, ran.out) == (5, b"")
    assert f"cannot reach {server.target}" in ran.err
    assert "Connection refused" in ran.err
    assert "Traceback" not in ran.err


async def test_a_reader_that_stops_is_no_error(
    server: ScriptedServer, service: ScriptedService
) -> None:
    """As in `headway watch ID -o jsonl | head -1`."""
    scripted = await service.add()
    process = await start(server.target, "watch", scripted.job.id, "-o", "jsonl")
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    await quick(scripted)
    async with asyncio.timeout(WITHIN):
        assert await process.wait() == 141
    assert process.stderr is not None
    assert await process.stderr.read() == b""


async def test_help_and_version_need_no_server_and_no_grpc() -> None:
    """Completion and scripts call them often."""
    shown, version, probe = await asyncio.gather(
        run(None, "--help"), run(None, "--version"), imported_by_help()
    )
    assert shown.code == 0
    for word in ("submit", "watch", "dead", "server", "worker", "130 Ctrl-C"):
        assert word in shown.text
    assert version.text.startswith("headway ")
    assert probe == []


async def imported_by_help() -> list[str]:
    program = (
        "import sys; from headway.cli import main; main(['--help'])\n"
        "print([name for name in ('grpc', 'google.protobuf', 'asyncio') if name in sys.modules],"
        " file=sys.stderr)"
    )
    import sys

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(None),
    )
    ran = await finish(process)
    found: list[str] = json.loads(ran.err.replace("'", '"'))
    return found
