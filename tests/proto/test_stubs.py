"""The .proto files pass their linter, and the committed stubs are made from them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headway import v1
from headway.convert import _EVENT_TYPES, _STATES
from headway.jobs import JobState
from headway.updates import EventType

ROOT = Path(__file__).parents[2]
GENERATE = ROOT / "proto" / "generate.py"
IMAGE = Path(__file__).with_name("headway.v1.binpb")
BUF = Path(sys.executable).parent / "buf"


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def test_committed_stubs_are_those_of_the_proto_files() -> None:
    checked = run(sys.executable, GENERATE, "--check")
    assert checked.returncode == 0, checked.stderr


def test_drift_is_reported_by_file_and_changes_nothing(tmp_path: Path) -> None:
    for folder in ("proto", "clients/python/headway/v1"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    stubs = tmp_path / "clients/python/headway/v1"
    (stubs / "job_pb2.py").write_text("# changed\n")
    (stubs / "left_over_pb2.py").write_text("")
    (stubs / "payload_pb2.pyi").unlink()
    checked = run(sys.executable, tmp_path / "proto" / "generate.py", "--check", cwd=tmp_path)
    assert checked.returncode == 1
    named = {line.strip() for line in checked.stderr.splitlines() if line.startswith("  ")}
    assert named == {
        "headway/v1/job_pb2.py",
        "headway/v1/left_over_pb2.py",
        "headway/v1/payload_pb2.pyi",
    }
    assert (stubs / "job_pb2.py").read_text() == "# changed\n"
    written = run(sys.executable, tmp_path / "proto" / "generate.py", cwd=tmp_path)
    assert written.returncode == 0
    committed = ROOT / "clients/python/headway/v1"
    for path in committed.glob("*.py*"):
        assert (stubs / path.name).read_bytes() == path.read_bytes()
    assert not (stubs / "left_over_pb2.py").exists()


@pytest.mark.parametrize("arguments", [("lint",), ("format", "--diff", "--exit-code")])
def test_buf_is_content(arguments: tuple[str, ...]) -> None:
    checked = run(BUF, *arguments)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_state_and_event_type_has_its_word() -> None:
    assert set(_STATES) == set(v1.JobState.values()) - {0}
    assert set(_STATES.values()) == set(JobState) - {JobState.UNKNOWN}
    assert set(_EVENT_TYPES) == set(v1.JobEventType.values()) - {0}
    assert set(_EVENT_TYPES.values()) == set(EventType) - {EventType.UNKNOWN}


def test_the_package_exports_messages_enums_stub_and_servicer() -> None:
    for module in (v1.job_pb2, v1.job_service_pb2, v1.payload_pb2, v1.error_reason_pb2):
        described = module.DESCRIPTOR
        names = [*described.message_types_by_name, *described.enum_types_by_name]
        assert set(names) <= set(v1.__all__)
    assert {"JobServiceStub", "JobServiceServicer"} <= set(v1.__all__)


def test_no_change_breaks_those_who_have_the_contract() -> None:
    """Against the image of what was published; `buf build proto -o IMAGE` accepts a change."""
    checked = run(BUF, "breaking", "proto", "--against", IMAGE)
    assert checked.returncode == 0, checked.stdout + checked.stderr
