"""What a process under attack has logged: no line may tell of a defect."""

import json
from collections.abc import Collection
from pathlib import Path

LINE_BYTES_MAX = 8_192
"""What strangers send does not fill the log."""
DEFECTS = ("error", "critical")


class ProcessLog:
    """The log of one process, in JSON; each line is looked at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def skip(self) -> None:
        """Look at nothing that has been written so far."""
        self._lines()

    def check(self, *, errors: Collection[str] = ()) -> None:
        """No line tells of an exception, or is an error but for these events."""
        for line in self._lines():
            assert len(line) <= LINE_BYTES_MAX, line[:1000]
            assert b"Traceback" not in line, line
            if line.startswith(b"{"):
                facts = json.loads(line)
                assert "exception" not in facts, line
                assert facts["level"] not in DEFECTS or facts["event"] in errors, line

    def _lines(self) -> list[bytes]:
        with self._path.open("rb") as file:
            file.seek(self._read)
            found = file.read()
        whole = found[: found.rfind(b"\n") + 1]
        self._read += len(whole)
        return whole.splitlines()
