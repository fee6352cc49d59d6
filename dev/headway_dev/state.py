"""What is kept about private services between runs: ports, passwords, and pids to end."""

import contextlib
import dataclasses
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway_dev.processes import ProcessRecord

STATE_FILE = "state.json"


@dataclass(slots=True)
class State:
    """The contents of `state.json`, readable by its owner only: it holds passwords.

    services maps a service's name to its own settings (ports, password, paths).
    processes are those started and not yet seen to end.
    """

    path: Path
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    # Services are stopped by several threads at a time.
    _changing: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def load(cls, directory: Path) -> "State":
        """Read the state of this directory; an absent or broken file is an empty state."""
        state = cls(directory / STATE_FILE)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            stored = json.loads(state.path.read_text())
            state.services = dict(stored["services"])
            state.processes = {
                name: ProcessRecord(**record) for name, record in stored["processes"].items()
            }
        return state

    def save(self) -> None:
        """Replace the file as a whole, so that a crash leaves the old one or the new one."""
        with self._changing:
            self._save()

    def record(self, name: str, process: ProcessRecord) -> None:
        """Note a started process, on disk, before anything else may fail."""
        with self._changing:
            self.processes[name] = process
            self._save()

    def forget(self, name: str) -> None:
        """Note that a process has ended."""
        with self._changing:
            if self.processes.pop(name, None) is not None:
                self._save()

    def _save(self) -> None:
        content = {
            "services": self.services,
            "processes": {name: dataclasses.asdict(r) for name, r in self.processes.items()},
        }
        draft = self.path.with_suffix(".draft")
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
        draft.replace(self.path)
