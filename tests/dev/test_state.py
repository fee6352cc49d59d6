"""The state file of private services."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headway_dev.processes import ProcessRecord
from headway_dev.state import State


def test_threads_that_stop_services_together_do_not_trip_over_the_file(tmp_path: Path) -> None:
    """All children are stopped at once, and each notes its own end."""
    state = State.load(tmp_path)
    names = [f"child-{number}" for number in range(64)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda name: state.record(name, record(name)), names))
        assert set(State.load(tmp_path).processes) == set(names)
        list(threads.map(state.forget, names))
    assert State.load(tmp_path).processes == {}


def record(name: str) -> ProcessRecord:
    return ProcessRecord(**dict.fromkeys(ProcessRecord.__dataclass_fields__, name))
