"""Settings of any kind: taken, or refused by name, without the value and without a traceback."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway_core.broker import connected
from headway_core.database import Database
from headway_core.errors import HeadwayError, SettingsInvalid
from headway_core.settings import CoreSettings, load
from headway_server.settings import ServerSettings
from headway_worker.settings import WorkerSettings
from tests.end_to_end.stack import headway, run
from tests.fuzz.effort import ASKED, effort, thrown

KINDS: tuple[type[CoreSettings], ...] = (ServerSettings, WorkerSettings)
SURROGATE = "\udcff"
SOUND = {
    "HEADWAY_DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d",
    "HEADWAY_AMQP_URL": "amqp://u:p@127.0.0.1:1/",
}
VALUES = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                " ",
                "0",
                "-1",
                "1e9",
                "nan",
                "inf",
                "1_000",
                "٣",
                "²",
                "0x10",
                "1.",
                ".5",
                "true",
                "True",
                "yes",
            ),
            *(
                "9" * 5_000,
                "1." + "0" * 30,
                SURROGATE,
                "\u202e",
                "é",
                "a\nb",
                "${HOME}",
                "%s",
                "null",
                "[]",
                "{}",
            ),
            *(
                "127.0.0.1",
                ":1",
                "h:65536",
                "h:-1",
                "[::1]:1",
                "[::1:1",
                "::1:1",
                "h:²",
                "/nowhere",
                "/dev/null/x",
            ),
        ]
    ),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20),
    st.from_regex(r"\A[0-9]{1,13}(\.[0-9]{1,10})?\Z"),
)
HOSTS = st.one_of(
    st.sampled_from(
        [
            "127.0.0.1",
            "[::1]",
            "[v1.x]",
            "a..b",
            "h" * 300,
            "xn--",
            "\u2024",
            "",
            "%zz",
            SURROGATE,
            "[::1",
        ]
    )
)
URLS = st.builds(
    lambda scheme, login, host, port, rest: f"{scheme}://{login}{host}{port}{rest}",
    st.sampled_from(["postgresql", "postgres", "amqp", "amqps", "http", "", "POSTGRESQL"]),
    st.sampled_from(
        ["", "u@", "u:p@", "u:12/p@", "u:%zz@", f"{SURROGATE}@", "u:p#p@", "u:p?p@", "@@", "u:%00@"]
    ),
    HOSTS,
    st.sampled_from(["", ":1", ":0", ":65536", ":x", ":-1", ":1,h:2", ":²"]),
    st.sampled_from(
        [
            "",
            "/",
            "/d",
            "//",
            "/%zz",
            f"/{SURROGATE}",
            "/d?port=99999",
            "/d?port=x",
            "/d?sslmode=x",
            "/d?heartbeat=x",
            "/d?host=/nowhere",
            "/d?connect_timeout=x",
            "/d?passfile=/",
            "/?auth=X",
            "/?channel_max=x",
            "/d#f",
        ]
    ),
)


def names(kind: type[CoreSettings]) -> list[str]:
    return sorted(field.alias for field in kind.model_fields.values() if field.alias)


@effort(200)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_values_of_every_setting(kind: type[CoreSettings], data: st.DataObject) -> None:
    thrown["settings"] += 1
    chosen = data.draw(st.lists(st.sampled_from(names(kind)), min_size=1, max_size=4, unique=True))
    environ = {name: data.draw(st.one_of(VALUES, URLS)) for name in chosen}
    try:
        load(kind, SOUND | environ)
    except SettingsInvalid as refused:
        text = "\n".join(refused.problems)
        assert any(name in text for name in chosen), text
        for value in environ.values():
            assert len(value) < 12 or value not in text, text


@effort(30, most=500)
@given(url=URLS)
@example(url="postgresql://@@[::1]")
@pytest.mark.parametrize("use", ["broker", "database"])
async def test_urls_that_are_taken_lead_to_a_service_or_to_a_word(use: str, url: str) -> None:
    """Nothing listens there; what comes out is our own error, and no other."""
    thrown["settings"] += 1
    name = "HEADWAY_AMQP_URL" if use == "broker" else "HEADWAY_DATABASE_URL"
    try:
        settings = load(CoreSettings, SOUND | {name: url})
    except SettingsInvalid:
        return
    with pytest.raises(HeadwayError):
        await (_use_broker if use == "broker" else _use_database)(settings)


async def _use_broker(settings: CoreSettings) -> None:
    async with connected(settings.amqp_url, name="test"):
        pass


async def _use_database(settings: CoreSettings) -> None:
    database = await Database.connect(
        settings.database_url.get_secret_value(), name="test", size=1, timeout_seconds=2
    )
    try:
        await database.fetch("SELECT 1")
    finally:
        await database.close()


WRONG = {
    "HEADWAY_DATABASE_URL": "mysql://u:swordfish@h/d",
    "HEADWAY_AMQP_URL": "amqp://u:swordfish@a..b/",
    "HEADWAY_LEASE_SECONDS": "٣ swordfish",
    "HEADWAY_HEARTBEAT_SECONDS": "-1 swordfish",
    "HEADWAY_DRAIN_SECONDS": "swordfish",
    "HEADWAY_TRACES_PER_SECOND": "swordfish",
    "HEADWAY_METRICS_LISTEN": "swordfish",
    "HEADWAY_LOG_LEVEL": "swordfish",
    "HEADWAY_LOG_FORMAT": "swordfish",
}


@pytest.mark.parametrize("command", [("server",), ("worker", "tests.worker.handlers:jobs")])
async def test_processes_name_all_wrong_settings_and_exit_with_2(command: tuple[str, ...]) -> None:
    thrown["settings"] += len(WRONG)
    ran = await run(headway(), *command, environment=WRONG)
    assert ran.code == 2
    for name in WRONG:
        assert f"{name} cannot be used" in ran.errors
    assert "swordfish" not in ran.output + ran.errors
    assert "Traceback" not in ran.output + ran.errors


USUAL = 4
"""Of the settings below, so many; each costs a start of Python."""
ODD: list[dict[str, str]] = [
    {"HEADWAY_TRACE_DIR": "/dev/null/x"},
    {"HEADWAY_METRICS_LISTEN": "192.0.2.1:1"},
    {"HEADWAY_LISTEN": "no.such.host.invalid:1", "OTEL_RESOURCE_ATTRIBUTES": "a,b=%zz,=="},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense://\u202e", "HEADWAY_LISTEN": "192.0.2.1:1"},
    {"HEADWAY_FAILPOINTS": "a=b=c,,@@"},
    {"OTEL_EXPORTER_OTLP_TIMEOUT": "x", "OTEL_BSP_SCHEDULE_DELAY": "x"},
]


async def test_a_server_that_cannot_start_says_why_in_one_line() -> None:
    """What is right by its form may still not work; and there is no database at all."""

    async def start(settings: dict[str, str]) -> None:
        thrown["settings"] += 1
        ran = await run(headway(), "server", environment=SOUND | settings, timeout=60)
        assert ran.code in {1, 2}, (settings, ran)
        assert "Traceback" not in ran.output + ran.errors, (settings, ran.errors)
        assert "headway" in ran.errors.splitlines()[-1], (settings, ran.errors)

    await asyncio.gather(*map(start, ODD if ASKED else ODD[:USUAL]))
