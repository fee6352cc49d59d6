"""Targets as people write them."""

import asyncio

import pytest

from headway import Client
from headway.channel import options, resolve
from tests.client.scripted_server import ScriptedServer, ScriptedService, serving


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("127.0.0.1:7", "127.0.0.1:7"),
        ("jobs.internal:7", "jobs.internal:7"),
        ("jobs.internal", "jobs.internal:50051"),
        ("[::1]:7", "[::1]:7"),
        ("::1", "[::1]:50051"),
        ("10.0.0.1:7,10.0.0.2:8", "ipv4:10.0.0.1:7,10.0.0.2:8"),
        (" 10.0.0.1 , localhost:8,", "ipv4:10.0.0.1:50051,127.0.0.1:8"),
        ("[::1]:7,[::2]:7", "ipv6:[::1]:7,[::2]:7"),
        ("dns:///jobs.internal:7", "dns:///jobs.internal:7"),
        ("unix:/run/headway.sock", "unix:/run/headway.sock"),
    ],
)
def test_targets(given: str, target: str) -> None:
    assert resolve(given) == target


@pytest.mark.parametrize("given", ["http://jobs:1", "jobs-1:7,jobs-2:7", "10.0.0.1:7,[::1]:7"])
def test_targets_that_cannot_work_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match="target"):
        resolve(given)


def test_the_environment_names_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADWAY_TARGET", raising=False)
    assert resolve(None) == "127.0.0.1:50051"
    monkeypatch.setenv("HEADWAY_TARGET", "10.0.0.9:7")
    assert resolve(None) == "10.0.0.9:7"
    assert resolve("10.0.0.1:7") == "10.0.0.1:7"


@pytest.mark.parametrize("target", ["127.0.0.1:7", "localhost:7", "ipv4:127.0.0.1:7,127.0.0.1:8"])
def test_loopback_goes_through_no_proxy(target: str) -> None:
    assert ("grpc.enable_http_proxy", 0) in options(target)
    assert ("grpc.enable_http_proxy", 0) not in options("jobs.internal:7")


async def test_calls_and_watches_go_to_a_server_that_is_up(
    server: ScriptedServer, service: ScriptedService
) -> None:
    """Three targets: one is nobody, one goes away, one stays."""
    async with serving() as other, serving() as gone:
        await gone.stop()
        other.service.jobs = service.jobs
        targets = f"{gone.target},{server.target},{other.target}"
        async with asyncio.timeout(20), Client(targets) as client:
            scripted = await service.add()
            updates = client.watch(scripted.job.id)
            await anext(updates)
            await (server if service.open_streams else other).stop()
            for _ in range(5):
                assert (await client.get(scripted.job.id)).id == scripted.job.id
            await scripted.complete()
            assert [update.sequence async for update in updates] == [2]
