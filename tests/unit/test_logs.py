"""Log lines are JSON, name their job, and hold no password, whoever wrote them."""

import asyncio
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from uuid import uuid4

import pytest
import structlog

from headway_core import logs
from headway_core.errors import Defect
from headway_core.redaction import hide, redact, url_secrets
from headway_core.settings import CoreSettings, load

ENVIRON = {
    "HEADWAY_DATABASE_URL": "postgresql://user:pg-canary@host/headway",
    "HEADWAY_AMQP_URL": "amqp://user:mq%22%C3%A9-canary@host/vhost",
    "HEADWAY_LOG_FORMAT": "json",
}


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.QUIET}
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def configured(**environ: str) -> io.StringIO:
    stream = io.StringIO()
    settings = load(CoreSettings, ENVIRON | environ)
    logs.configure(settings, service="headway-test", stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_its_facts() -> None:
    stream = configured()
    job_id = uuid4()
    structlog.get_logger("headway_worker.pipeline").info("job_started", epoch=3, job_id=job_id)
    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {
        "event": "job_started",
        "level": "info",
        "logger": "headway_worker.pipeline",
        "service": "headway-test",
        "epoch": 3,
        "job_id": str(job_id),
    }


async def test_lines_inside_a_job_name_it_also_from_threads_and_libraries() -> None:
    stream = configured()
    job_id = uuid4()
    with logs.job_context(job_id=job_id, type="report.pdf", attempt=2, trace_id="ab" * 16):
        structlog.get_logger("a").info("inside")
        await asyncio.to_thread(logging.getLogger("users.own").info, "in a %s", "thread")
    structlog.get_logger("a").info("outside")
    inside, threaded, outside = lines(stream)
    facts = {"job_id": str(job_id), "type": "report.pdf", "attempt": 2, "trace_id": "ab" * 16}
    assert facts.items() <= inside.items()
    assert facts.items() <= threaded.items()
    assert threaded["event"] == "in a thread"
    assert "job_id" not in outside


def test_jobs_side_by_side_keep_their_lines_apart() -> None:
    stream = configured()

    async def job(number: int) -> None:
        facts = {"job_id": uuid4(), "type": f"type-{number}", "attempt": number, "trace_id": ""}
        with logs.job_context(**facts):  # type: ignore[arg-type]
            await asyncio.sleep(0)
            structlog.get_logger("a").info("working", number=number)

    async def both() -> None:
        await asyncio.gather(job(1), job(2))

    asyncio.run(both())
    assert [(line["number"], line["attempt"]) for line in lines(stream)] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_password_reaches_a_line(log_format: str) -> None:
    stream = configured(HEADWAY_LOG_FORMAT=log_format, HEADWAY_LOG_LEVEL="debug")
    log = structlog.get_logger("a")
    for secret in ("pg-canary", 'mq"é-canary', "mq%22%C3%A9-canary"):
        local_variable_shown_by_pretty_tracebacks = secret
        log.info("fact", url=f"amqp://user:{secret}@host/", parts={"password": secret})
        log.info(f"event_{secret}")  # noqa: G004 -- what must not leak anyhow
        for name in ("aio_pika", "aiormq.connection", "asyncpg", "grpc", "users.own"):
            logging.getLogger(name).critical("trouble with %r", f"x://u:{secret}@h")
        try:
            raise ValueError(local_variable_shown_by_pretty_tracebacks)
        except ValueError:
            log.exception("failed")
            logging.getLogger("users.own").exception("failed")
    log.info("elsewhere", url="https://me:some-other-canary@host/x?y=z")
    warnings.warn("warned of pg-canary", stacklevel=1)
    text = stream.getvalue()
    assert text.count("failed") == 6
    assert "warned of ***" in text
    assert "https://me:***@host/x?y=z" in text
    assert "canary" not in text


def test_what_brokers_libraries_say_below_critical_is_left_out() -> None:
    """They write every frame at DEBUG, the one with the password included."""
    stream = configured(HEADWAY_LOG_LEVEL="debug")
    for name in ("aio_pika", "aiormq.connection", "pamqp"):
        logging.getLogger(name).debug("frame")
        logging.getLogger(name).error("error when creating transport")
    logging.getLogger("users.own").debug("kept")
    assert [line["event"] for line in lines(stream)] == ["kept"]


def test_the_level_is_obeyed() -> None:
    stream = configured(HEADWAY_LOG_LEVEL="error")
    structlog.get_logger("a").warning("no")
    logging.getLogger("users.own").warning("no")
    structlog.get_logger("a").error("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_an_exception_is_one_line_of_json_without_local_values() -> None:
    stream = configured()
    value_of_a_local_variable = "payload-canary"
    try:
        raise LookupError("gone")
    except LookupError:
        structlog.get_logger("a").exception("failed")
    (line,) = lines(stream)
    assert "LookupError: gone" in str(line["exception"])
    assert value_of_a_local_variable not in json.dumps(line)


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("logger", ["headway_worker.execution", "asyncio"])
def test_our_lines_show_the_stack_of_an_exception_and_not_its_text(
    logger: str, log_format: str
) -> None:
    """The text of what a handler raises may quote its payload; the job's row has it."""
    stream = configured(HEADWAY_LOG_FORMAT=log_format)
    try:
        try:
            raise KeyError("inner-canary")
        except KeyError as error:
            raise ExceptionGroup("group-canary", [ValueError("member-canary")]) from error
    except ExceptionGroup as error:
        structlog.get_logger(logger).warning("handler_raised", exc_info=error)
        logging.getLogger(logger).exception("handler_raised")
    text = stream.getvalue()
    assert text.count("handler_raised") == 2
    for word in ("KeyError", "ValueError", "ExceptionGroup", "test_logs.py"):
        assert text.count(word) >= 2, word
    # Lines of code are shown, and these here hold the words: what is left is what was said.
    assert "'inner-canary'" not in text
    assert "group-canary (1 sub-exception)" not in text


async def test_what_asyncio_says_of_a_task_is_its_first_line() -> None:
    """It appends the repr of the exception, whose text is user code's."""
    stream = configured()
    loop = asyncio.get_running_loop()
    error = ValueError("text-canary")
    loop.default_exception_handler(
        {"message": "Task exception was never retrieved", "exception": error, "future": error}
    )
    loop.call_soon(lambda payload: 1 / 0, {"card": "argument-canary"})
    await asyncio.sleep(0.01)
    text = stream.getvalue()
    assert "Task exception was never retrieved" in text
    assert "ZeroDivisionError" in text
    assert "text-canary" not in text
    assert "argument-canary'}" not in text


def test_a_defect_of_ours_is_told_by_its_own_words() -> None:
    stream = configured()
    try:
        raise Defect("two rows for one job")
    except Defect:
        structlog.get_logger("headway_server.rpc").exception("rpc_failed")
    assert "Defect: two rows for one job" in str(lines(stream)[0]["exception"])


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(load(CoreSettings, ENVIRON), service="headway-test")
    structlog.get_logger("a").info("hello")
    sys.stderr.flush()
    captured = capsys.readouterr()
    assert json.loads(captured.err)["event"] == "hello"
    assert not captured.out


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("amqp://u:p@h:1/v", "amqp://u:***@h:1/v"),
        ("amqp://u:p@ss@h", "amqp://u:***@h"),
        ("(postgresql://:p@h/d) and http://a:b@c", "(postgresql://:***@h/d) and http://a:***@c"),
        ("amqp://h:5672/v", "amqp://h:5672/v"),
        ("http://h/a:b@c", "http://h/a:b@c"),
        ("no url at all: a:b@c", "no url at all: a:b@c"),
    ],
)
def test_urls_lose_their_passwords_and_nothing_else(text: str, hidden: str) -> None:
    assert redact(text) == hidden


def test_short_passwords_are_hidden_in_urls_only() -> None:
    secrets = url_secrets("amqp://u:a@h")
    assert hide("banana amqp://u:a@h", secrets) == "banana amqp://u:***@h"
