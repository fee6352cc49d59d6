"""A block of lines at the bottom of a terminal, drawn over itself."""

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

UP = "\x1b[{}A"
ERASE_LINE_END = "\x1b[K"
ERASE_BELOW = "\x1b[J"
PLAIN = str.maketrans({"·": "|", "…": "~"})


class Screen:
    """Draws within `with`, which hides the cursor; the last drawing stays.

    rich.Live does nearly this, but leaves rubbish behind when the terminal is made narrower: lines
    that were drawn before are wrapped by the terminal then, and take more room than they did.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._drawn: list[str] = []
        self._widths: list[int] = []
        self._terminal_width = 0

    def __enter__(self) -> Self:
        self.console.show_cursor(False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.console.show_cursor(True)

    @property
    def room(self) -> int:
        """Lines that fit: one less than the terminal has, since the cursor stands below them."""
        return max(1, self.console.height - 1)

    def draw(self, lines: Sequence[Text]) -> None:
        """Replace the block; what does not fit is cut off."""
        width = max(2, self.console.width)
        taken = sum(max(1, math.ceil(cells / width)) for cells in self._widths)
        frame = ["\r" + UP.format(taken) if taken else "\r"]
        before = self._drawn if width == self._terminal_width else []
        self._drawn, self._widths, self._terminal_width = [], [], width
        for number, line in enumerate(lines[: self.room]):
            # One column stays free: a full line makes some terminals wrap before the newline.
            line.truncate(width - 1, overflow="ellipsis")
            drawn = self._ansi(line)
            self._drawn.append(drawn)
            self._widths.append(line.cell_len)
            if drawn not in before[number : number + 1]:
                frame += [drawn, ERASE_LINE_END]
            frame.append("\n")
        frame.append(ERASE_BELOW)
        self.console.file.write(self._encodable("".join(frame)))
        self.console.file.flush()

    def _encodable(self, frame: str) -> str:
        """What the terminal's encoding has: bars must not end with a UnicodeEncodeError."""
        encoding = self.console.encoding
        if encoding.lower().startswith("utf"):
            return frame
        return frame.translate(PLAIN).encode(encoding, "replace").decode(encoding)

    def _ansi(self, line: Text) -> str:
        with self.console.capture() as captured:
            self.console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return captured.get()
