"""`headway doctor` finds what is broken, says how to mend it, and keeps secrets."""

import asyncio
from pathlib import Path

import aio_pika
import pytest

from headway_dev import ports
from headway_dev.doctor import main

SECRET = "a-wrong-and-secret-password"


@pytest.fixture
def sound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str, amqp_url: str
) -> pytest.MonkeyPatch:
    """A machine on which only the server is missing."""
    monkeypatch.setenv("HEADWAY_DATABASE_URL", database_url)
    monkeypatch.setenv("HEADWAY_AMQP_URL", amqp_url)
    monkeypatch.setenv("HEADWAY_TRACE_DIR", str(tmp_path))
    monkeypatch.setenv("HEADWAY_TARGET", f"{ports.LOOPBACK}:{ports.free_port()}")
    return monkeypatch


def with_password(url: str, password: str) -> str:
    head, _, tail = url.partition("@")
    return f"{head.rpartition(':')[0]}:{password}@{tail}"


def examine(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main([])
    return code, capsys.readouterr().out


def test_sound_services_are_found_so_and_the_missing_server_is_named(
    sound: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = examine(capsys)
    assert code == 1
    assert "ok    database" in text
    assert "ok    schema" in text
    assert "ok    broker" in text
    assert "nothing listens on" in text
    assert text.endswith("1 to mend\n")


@pytest.mark.parametrize("variable", ["HEADWAY_DATABASE_URL", "HEADWAY_AMQP_URL"])
def test_a_wrong_password_is_told_and_not_shown(
    sound: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    database_url: str,
    amqp_url: str,
    variable: str,
) -> None:
    right = {"HEADWAY_DATABASE_URL": database_url, "HEADWAY_AMQP_URL": amqp_url}[variable]
    sound.setenv(variable, with_password(right, SECRET))
    code, text = examine(capsys)
    assert code == 1
    assert "refuses the user" in text
    assert variable in text
    assert SECRET not in text


@pytest.mark.parametrize("variable", ["HEADWAY_DATABASE_URL", "HEADWAY_AMQP_URL"])
def test_a_service_that_is_away_is_told(
    sound: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    scheme = "postgresql" if "DATABASE" in variable else "amqp"
    nowhere = f"{scheme}://headway:{SECRET}@127.0.0.1:{ports.free_port()}/headway"
    sound.setenv(variable, nowhere)
    code, text = examine(capsys)
    assert code == 1
    assert "Connect call failed" in text
    assert variable in text
    assert SECRET not in text


def test_a_database_without_schema_is_told_what_to_run(
    sound: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], empty_database_url: str
) -> None:
    sound.setenv("HEADWAY_DATABASE_URL", empty_database_url)
    code, text = examine(capsys)
    assert code == 1
    assert "headway migrate" in text


def test_a_queue_with_other_properties_is_told_with_the_difference(
    sound: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], amqp_url: str
) -> None:
    async def declare_otherwise() -> None:
        async with await aio_pika.connect(amqp_url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("headway.v1.default", durable=True)

    asyncio.run(declare_otherwise())
    code, text = examine(capsys)
    assert code == 1
    assert "headway.v1.default exists with other properties" in text
    assert "delete_queue headway.v1.default" in text


def test_settings_are_checked_and_typing_errors_guessed(
    sound: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound.setenv("HEADWAY_LEASE_SECONDS", "soon")
    sound.setenv("HEADWAY_DRIAN_SECONDS", "3")
    code, text = examine(capsys)
    assert code == 1
    assert "HEADWAY_LEASE_SECONDS cannot be used" in text
    assert "did you mean HEADWAY_DRAIN_SECONDS?" in text


def test_a_trace_directory_that_cannot_be_written_is_told(
    sound: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    sound.setenv("HEADWAY_TRACE_DIR", str(tmp_path / "file"))
    code, text = examine(capsys)
    assert code == 1
    assert "cannot be written to" in text
