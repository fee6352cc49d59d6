"""One page of a listing, bounded in rows and in bytes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from headway_server.bounds import PAGE_BYTES_MAX

ROWS_READ_MAX: Final = 200
ROWS_READ_MAX_FULL: Final = 16
"""With payload and result a row may have half a megabyte."""

Row = TypeVar("Row")
Position = TypeVar("Position")
Item = TypeVar("Item", bound=Message)


@dataclass(frozen=True, slots=True)
class Part(Generic[Row, Position]):
    """Rows in order, and where the search for more stopped; None: at the limit or at the end."""

    rows: list[Row]
    stopped_at: Position | None = None


@dataclass(frozen=True, slots=True)
class Filled(Generic[Item, Position]):
    """The items of a page, and where the next one begins; None at the end."""

    items: list[Item]
    next_position: Position | None


async def fill(
    read: Callable[[Position | None, int], Awaitable[Part[Row, Position]]],
    *,
    start: Position | None,
    size: int,
    full: bool,
    convert: Callable[[Row], Item],
    position_of: Callable[[Row], Position],
) -> Filled[Item, Position]:
    """Read up to `size` rows from `start` on, some at a time, and stop early at PAGE_BYTES_MAX.

    `read(position, limit)` gives the rows after a position, in order. A page has one row at least,
    however large, if there is one, unless `read` stopped before it met one: then the next page goes
    on from there (AIP-158: a page may be short, or empty, and have a token).
    """
    items: list[Item] = []
    bytes_ = 0
    position = start
    while True:
        wanted = min(size - len(items), ROWS_READ_MAX_FULL if full else ROWS_READ_MAX)
        # One more than wanted tells whether there is a next page.
        part = await read(position, wanted + 1)
        for row in part.rows[:wanted]:
            item = convert(row)
            bytes_ += item.ByteSize()
            if items and bytes_ > PAGE_BYTES_MAX:
                return Filled(items, position)
            items.append(item)
            position = position_of(row)
        if len(part.rows) <= wanted:
            return Filled(items, part.stopped_at)
        if len(items) == size:
            return Filled(items, position)
