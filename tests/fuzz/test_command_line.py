"""Command lines of every command: an exit code that is told, a word for people, no traceback."""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headway import JobState, SyncClient
from headway.cli import main
from headway_dev import ports
from tests.fuzz.attacked import PYTHON_TEXT, Attacked
from tests.fuzz.effort import effort, thrown

# README "Commands"; 141 is a closed pipe.
EXIT_CODES = {0, 1, 2, 3, 4, 5, 124}
HANDLER_ERROR = "PermanentError"
SURROGATE = "\udcff"
"""What Python makes of an argument's byte that is not UTF-8."""

VALUES = st.one_of(
    st.sampled_from(
        (
            "",
            "-",
            "--",
            "-1",
            "0",
            "1",
            "9",
            "10",
            "99999999999",
            "1e9",
            "nan",
            "inf",
            "²",
            "٣",
            "1.5",
            "1h",
            "x",
            "e2e.work",
            "default",
            "a=b",
            "=",
            "{}",
            "[]",
            '{"a": 1}',
            '{"a": "\\ud800"}',
            '{"a": 1e999}',
            "null",
            "@",
            "@/",
            "@/nowhere",
            "/",
            "/dev/null",
            "/dev/null/x",
            "/nowhere",
            "table",
            "json",
            "jsonl",
            "running",
            "DEAD",
            SURROGATE,
            f"a{SURROGATE}=b",
            f"127.0.0.1:{SURROGATE}",
            "[::1",
            "::::",
            "h:99999999",
            "http://x",
            "unix:",
            "\ud83d",
            "é",
            "\u202e",
            "0" * 5000,
            '{"a":' * 3000 + "1" + "}" * 3000,
            "[" * 50_000,
            "9" * 400,
            '{"a": %s}' % ("9" * 400),
            "01919191-0000-7000-8000-000000000000",
            "ffffffffffffffffffffffffffffffff",
            "DONE",
        )
    ),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12),
)

CLIENT = {
    "submit": (
        "--json",
        "--data",
        "--content-type",
        "--priority",
        "--queue",
        "--key",
        "--delay",
        "--label",
        "--max-attempts",
        "--timeout",
    ),
    "get": ("--full", "--events"),
    "list": ("--state", "--type", "--queue", "--label", "--limit", "--full"),
    "cancel": ("--reason",),
    "replay": ("--type", "--queue", "--fingerprint", "--all", "--dry-run", "--max"),
    "dead": ("list", "--group", "--type", "--limit"),
    "result": ("--timeout",),
    "wait": ("--timeout",),
    "watch": (),
}
ACT_ON_EACH = {"cancel", "replay"}
"""Of several jobs these may have changed one before another is refused."""
COMMON = ("-o", "--output", "--nothing", "--help")
SERVICE = {
    "server": ("--listen", "--processes"),
    "worker": ("--concurrency", "--processes", "--queues"),
    "migrate": (),
    "trace": ("--dir", "--json"),
    "doctor": ("--data", "--target"),
    "dev": ("--app", "--listen", "--data", "--workers"),
    "demo": ("--data",),
}


@pytest.fixture(scope="module", autouse=True)
def environment(attacked: Attacked) -> Iterator[None]:
    """Clients talk to the server under attack; nothing else may reach a service of anybody's."""
    closed = f"{ports.LOOPBACK}:{ports.free_port()}"
    ours = {
        "HEADWAY_TARGET": attacked.target,
        "HEADWAY_DATABASE_URL": f"postgresql://u:p@{closed}/d",
        "HEADWAY_AMQP_URL": f"amqp://u:p@{closed}/",
    }
    with mock.patch.dict(os.environ, ours):
        yield


@pytest.fixture(scope="module")
def done(attacked: Attacked) -> list[str]:
    """The jobs that are done: who waits for one of them does not wait."""
    with SyncClient(attacked.target) as client:
        return [job.id for job in client.list() if job.state is not JobState.PENDING]


def run(arguments: Sequence[str]) -> int:
    """Run a command in this process; argparse's SystemExit is an exit code.

    What it says holds no text of Python's, but for the error that the handler of the dead job gave.
    """
    output = io.TextIOWrapper(io.BytesIO(), "utf-8")
    errors = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # as Python's own is
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
    said, complained = _text(output), _text(errors)
    text = (said + complained).replace(HANDLER_ERROR, "")
    assert not PYTHON_TEXT.search(text), (arguments, PYTHON_TEXT.search(text), text[-2000:])
    assert code in EXIT_CODES, (code, arguments)
    if code == 2:
        assert complained.strip(), arguments
    return code


@effort(120, most=20_000)
@given(
    command=st.sampled_from(list(CLIENT)),
    words=st.lists(VALUES, max_size=3),
    data=st.data(),
)
@example(command="submit", words=["e2e.work", "--priority", "99999999999"], data=None)
@example(command="submit", words=["e2e.work", "--max-attempts", "99999999999"], data=None)
@example(command="submit", words=["e2e.work", "--json", "[" * 50_000], data=None)
@example(command="submit", words=["e2e.work", "--json", '{"a": "\\ud800"}'], data=None)
@example(command="submit", words=["e2e.work", "--json", '{"\\ud800": 1}'], data=None)
@example(command="submit", words=["e2e.work", "--delay", "999999999d"], data=None)
@example(command="submit", words=["e2e.work", "--label", f"k{SURROGATE}=v"], data=None)
@example(command="submit", words=[SURROGATE], data=None)
@example(command="get", words=["x", "--target", SURROGATE], data=None)
@example(command="watch", words=["DONE", "DONE", "x"], data=None)
@example(command="result", words=["DONE"], data=None)
@example(command="get", words=["DONE", "DONE", "--events", "--full"], data=None)
@example(command="replay", words=["DONE"], data=None)
@example(command="replay", words=["--all", "--max", "99999999999", "--dry-run"], data=None)
def test_commands_of_the_client(attacked, done, command, words, data) -> None:
    thrown["command lines, client"] += 1
    options = [] if data is None else data.draw(_options(CLIENT[command]))
    arguments = [command, *words, *options]
    if "--all" in arguments or "-" in arguments:
        arguments = [word for word in arguments if word not in {"--all", "-"}]
    ids = iter(done * len(arguments))
    arguments = [next(ids) if word == "DONE" else word for word in arguments]
    if run(arguments) == 2 and not (command in ACT_ON_EACH and len(words) > 1):
        attacked.check_unchanged()
    else:
        attacked.rest()


@effort(60, most=5_000)
@given(
    command=st.sampled_from(["trace", "worker", "server", "migrate"]),
    words=st.lists(VALUES.filter(lambda word: not word.startswith("-")), max_size=2),
    data=st.data(),
)
def test_commands_of_the_services(command, words, data) -> None:
    """With something wrong in each line, or else `worker` would stay."""
    thrown["command lines, services"] += 1
    options = data.draw(_options(SERVICE[command]))
    wrong = {"worker": ["--nothing"], "server": ["--processes", "x"]}.get(command, [])
    run([command, *words, *options, *wrong])


@pytest.mark.parametrize("command", ["demo", "dev", "doctor"])
@pytest.mark.parametrize(
    "data", ["/dev/null/x", "/proc/nowhere", "/dev/null", f"/dev/null/{SURROGATE}"]
)
def test_a_directory_that_cannot_be(command, data) -> None:
    thrown["command lines, services"] += 1
    assert run([command, "--data", data]) == 1


@pytest.mark.parametrize("target", [SURROGATE, "::::", "h:²", "h:99999999", "[::1", "", "/"])
def test_doctor_with_a_target_that_is_none(target) -> None:
    thrown["command lines, services"] += 1
    assert run(["doctor", "--target", target]) in {0, 1}


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(errors="replace")


def _options(names: Sequence[str]) -> st.SearchStrategy[list[str]]:
    option = st.tuples(st.sampled_from((*names, *COMMON)), VALUES)
    return st.lists(option, max_size=3).map(lambda pairs: [word for pair in pairs for word in pair])
