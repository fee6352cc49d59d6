"""Settings are taken exactly, all problems are told at once, and none of them tells a secret."""

from datetime import timedelta
from pathlib import Path

import pytest

from headway_core.errors import SettingsInvalid
from headway_core.settings import (
    Address,
    CoreSettings,
    Flag,
    ListenAddress,
    LogFormat,
    LogLevel,
    Whole,
    address,
    flag,
    load,
    unknown_names,
    whole,
)

URLS = {
    "HEADWAY_DATABASE_URL": "postgresql://user:canary@host:5432/headway",
    "HEADWAY_AMQP_URL": "amqp://user:canary@host:5672/vhost",
}


class SomeSettings(CoreSettings):
    listen: ListenAddress = address("HEADWAY_LISTEN", default=Address("127.0.0.1", 50051))
    reflection: Flag = flag("HEADWAY_REFLECTION", default=False)
    queue_depth_max: Whole | None = whole("HEADWAY_QUEUE_DEPTH_MAX", default=None, least=1, most=9)


def test_defaults_are_those_of_the_design() -> None:
    settings = load(SomeSettings, URLS)
    assert settings.lease == timedelta(seconds=15)
    assert settings.heartbeat == timedelta(seconds=5)
    assert settings.drain == timedelta(seconds=30)
    assert settings.traces_per_second == 100
    assert settings.trace_dir is None
    assert settings.metrics_listen is None
    assert (settings.log_format, settings.log_level) == (LogFormat.AUTO, LogLevel.INFO)
    assert str(settings.listen) == "127.0.0.1:50051"
    assert settings.reflection is False
    assert settings.queue_depth_max is None


def test_everything_can_be_set() -> None:
    settings = load(
        SomeSettings,
        URLS
        | {
            "HEADWAY_LEASE_SECONDS": "2.5",
            "HEADWAY_HEARTBEAT_SECONDS": "0.5",
            "HEADWAY_DRAIN_SECONDS": "0",
            "HEADWAY_TRACE_DIR": "some/where",
            "HEADWAY_TRACES_PER_SECOND": "0.5",
            "HEADWAY_METRICS_LISTEN": "[::1]:9464",
            "HEADWAY_LOG_FORMAT": "json",
            "HEADWAY_LOG_LEVEL": "debug",
            "HEADWAY_LISTEN": "0.0.0.0:0",
            "HEADWAY_REFLECTION": "true",
            "HEADWAY_QUEUE_DEPTH_MAX": "9",
        },
    )
    assert settings.lease == timedelta(seconds=2.5)
    assert settings.drain == timedelta(0)
    assert settings.trace_dir == Path("some/where")
    assert settings.traces_per_second == 0.5
    assert settings.metrics_listen == Address("::1", 9464)
    assert str(settings.metrics_listen) == "[::1]:9464"
    assert settings.log_level is LogLevel.DEBUG
    assert settings.listen == Address("0.0.0.0", 0)
    assert settings.reflection is True
    assert settings.queue_depth_max == 9


def test_an_empty_variable_counts_as_not_set() -> None:
    settings = load(SomeSettings, URLS | {"HEADWAY_METRICS_LISTEN": "", "HEADWAY_TRACE_DIR": ""})
    assert settings.metrics_listen is None
    assert settings.trace_dir is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADWAY_REFLECTION", "True"),
        ("HEADWAY_REFLECTION", "1"),
        ("HEADWAY_REFLECTION", "yes"),
        ("HEADWAY_REFLECTION", " true"),
        ("HEADWAY_LEASE_SECONDS", "15s"),
        ("HEADWAY_LEASE_SECONDS", "1e1"),
        ("HEADWAY_LEASE_SECONDS", "inf"),
        ("HEADWAY_LEASE_SECONDS", "-5"),
        ("HEADWAY_LEASE_SECONDS", "0.5"),
        ("HEADWAY_LEASE_SECONDS", "601"),
        ("HEADWAY_LEASE_SECONDS", "1_5"),
        ("HEADWAY_LEASE_SECONDS", "00:00:15"),
        ("HEADWAY_LEASE_SECONDS", "PT15S"),
        ("HEADWAY_LEASE_SECONDS", "9" * 400),
        ("HEADWAY_TRACES_PER_SECOND", "nan"),
        ("HEADWAY_QUEUE_DEPTH_MAX", "0"),
        ("HEADWAY_QUEUE_DEPTH_MAX", "1.5"),
        ("HEADWAY_QUEUE_DEPTH_MAX", "²"),
        ("HEADWAY_LISTEN", "50051"),
        ("HEADWAY_LISTEN", "localhost"),
        ("HEADWAY_LISTEN", ":50051"),
        ("HEADWAY_LISTEN", "localhost:65536"),
        ("HEADWAY_LOG_FORMAT", "JSON"),
        ("HEADWAY_LOG_LEVEL", "canary"),
        ("HEADWAY_DATABASE_URL", "mysql://user:canary@host/db"),
        ("HEADWAY_DATABASE_URL", "canary"),
        ("HEADWAY_AMQP_URL", "amqp://user:canary@host:canary/"),
        ("HEADWAY_AMQP_URL", "amqp://user:canary@:5672/"),
        ("HEADWAY_AMQP_URL", "amqp://user:canary@[host/"),
        ("HEADWAY_AMQP_URL", "amqp://user:canary@a..b/"),
        ("HEADWAY_DATABASE_URL", f"postgresql://user:canary@{'h' * 64}/db"),
        ("HEADWAY_DATABASE_URL", "postgresql://user:12/canary@host/db"),
        ("HEADWAY_DATABASE_URL", "postgresql://user:12?canary@host/db"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable_and_not_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load(SomeSettings, URLS | {name: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name} cannot be used; it takes ")
    assert "canary" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load(
            SomeSettings,
            {
                "HEADWAY_AMQP_URL": "http://canary",
                "HEADWAY_HEARTBEAT_SECONDS": "9",
                "HEADWAY_REFLECTION": "on",
            },
        )
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "HEADWAY_DATABASE_URL is not set; it takes postgresql://" in problems
    assert "HEADWAY_AMQP_URL cannot be used; it takes amqp://" in problems
    assert "HEADWAY_REFLECTION cannot be used; it takes true or false" in problems
    assert "HEADWAY_HEARTBEAT_SECONDS must be less than half of HEADWAY_LEASE_SECONDS" in problems


def test_a_contradiction_with_an_unusable_value_is_not_made_up() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load(
            SomeSettings,
            URLS | {"HEADWAY_HEARTBEAT_SECONDS": "9", "HEADWAY_LEASE_SECONDS": "a lot"},
        )
    (problem,) = caught.value.problems
    assert problem.startswith("HEADWAY_LEASE_SECONDS cannot be used")


@pytest.mark.parametrize(("lease", "sound"), [("10", False), ("10.1", True)])
def test_a_lease_outlives_a_lost_heartbeat(lease: str, *, sound: bool) -> None:
    environ = URLS | {"HEADWAY_LEASE_SECONDS": lease}
    if sound:
        load(CoreSettings, environ)
    else:
        with pytest.raises(SettingsInvalid, match="HEADWAY_HEARTBEAT_SECONDS"):
            load(CoreSettings, environ)


def test_secrets_are_not_in_any_rendering() -> None:
    settings = load(SomeSettings, URLS)
    assert "canary" not in f"{settings!r} {settings} {settings.model_dump()}"
    assert settings.amqp_url.get_secret_value() == URLS["HEADWAY_AMQP_URL"]


def test_typing_errors_are_told_and_the_settings_of_others_are_not() -> None:
    environ = URLS | {
        "HEADWAY_LEASE_SECOND": "canary",
        "HEADWAY_REFLECTION": "true",
        "HEADWAY_TARGET": "host:1",
        "HEADWAY_TEST_SOMETHING": "1",
        "PATH": "canary",
    }
    (sentence,) = unknown_names(CoreSettings, environ)
    assert sentence.startswith("HEADWAY_LEASE_SECOND is no setting of Headway and has no effect")
    assert sentence.endswith("did you mean HEADWAY_LEASE_SECONDS?")
