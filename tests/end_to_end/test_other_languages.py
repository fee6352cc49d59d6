"""People with grpcurl and programs in other languages: reflection, plain JSON, generated stubs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.end_to_end.node_client import buf, node_client
from tests.end_to_end.stack import Stack, run

SERVICE = "headway.v1.JobService"
METHODS = {
    "SubmitJob",
    "BatchSubmitJobs",
    "GetJob",
    "ListJobs",
    "WatchJob",
    "CancelJob",
    "ListDeadLetters",
    "ReplayDeadLetter",
}


class Curl:
    """grpcurl where it is installed, else `buf curl`; both know the API by reflection alone."""

    def __init__(self, stack: Stack) -> None:
        self._target = stack.target
        self._grpcurl = shutil.which("grpcurl")

    async def services(self) -> list[str]:
        return (await self._list(option="--list-services")).split()

    async def methods(self) -> set[str]:
        # grpcurl lists those of a service, buf those of all services.
        listed = await self._list(*([SERVICE] if self._grpcurl else []), option="--list-methods")
        names = [line.replace("/", ".").rpartition(".") for line in listed.split()]
        return {method for service, _, method in names if service == SERVICE}

    async def call(self, method: str, request: Mapping[str, object]) -> list[dict[str, Any]]:
        """The answers, one or a stream of them."""
        body = json.dumps(request)
        if self._grpcurl:
            output = await self._run(
                self._grpcurl, "-plaintext", "-d", body, self._target, f"{SERVICE}/{method}"
            )
        else:
            output = await self._run(*self._buf("-d", body), f"{self._url}/{SERVICE}/{method}")
        return documents(output)

    async def _list(self, *names: str, option: str) -> str:
        if self._grpcurl:
            return await self._run(self._grpcurl, "-plaintext", self._target, "list", *names)
        return await self._run(*self._buf(option), "/".join((self._url, *names)))

    @property
    def _url(self) -> str:
        return f"http://{self._target}"

    def _buf(self, *options: str) -> list[str]:
        return [str(buf()), "curl", "--protocol", "grpc", "--http2-prior-knowledge", *options]

    async def _run(self, *command: str) -> str:
        ran = await run(*command)
        assert ran.code == 0, ran.errors
        return ran.output


def documents(text: str) -> list[dict[str, Any]]:
    """JSON documents one after the other, with or without lines between them."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


async def test_curl_lists_describes_submits_and_watches_to_the_end(common_stack: Stack) -> None:
    """Nothing but the address is known: no .proto file, no stub."""
    curl = Curl(common_stack)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(await curl.services())
    assert await curl.methods() == METHODS

    request = {"type": "e2e.work", "payload": {"json": {"ticks": 3, "echo": [1, None, "é"]}}}
    (submitted,) = await curl.call("SubmitJob", request)
    job = submitted["job"]
    assert submitted["created"] is True

    answers = await curl.call("WatchJob", {"jobId": job["id"], "afterSequence": 0})
    events = [answer["event"] for answer in answers if "event" in answer]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "JOB_EVENT_TYPE_SUBMITTED"
    assert events[-1]["type"] == "JOB_EVENT_TYPE_COMPLETED"

    (answer,) = await curl.call("GetJob", {"jobId": job["id"], "view": "JOB_VIEW_FULL"})
    found = answer["job"]
    assert (found["state"], found["done"]) == ("JOB_STATE_COMPLETED", True)
    assert found["result"]["json"] == {"attempt": 1, "echo": [1, None, "é"]}


async def test_a_node_client_generated_from_the_protos_does_the_same(
    common_stack: Stack, tmp_path: Path
) -> None:
    """Another language, another code generator, another gRPC."""
    script = await node_client(tmp_path)
    payload = json.dumps({"ticks": 3, "failures": 1, "echo": "from node"})
    ran = await run("node", script, common_stack.target, "e2e.work", payload)
    assert ran.code == 0, ran.errors
    (told,) = ran.lines
    assert (told["created"], told["state"], told["done"]) == (True, "COMPLETED", True)
    assert told["sequences"] == list(range(1, len(told["sequences"]) + 1))
    assert told["events"].count("STARTED") == 2
    assert told["events"].count("RETRY_SCHEDULED") == 1
    assert told["events"][-1] == "COMPLETED"
    assert told["result"] == {"attempt": 2, "echo": "from node"}
