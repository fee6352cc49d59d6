"""Which acks to write: as few as possible, each delivery once, none that is still at work."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ack:
    """Ack a delivery, or with `multiple` all up to it."""

    tag: int
    multiple: bool


@dataclass(frozen=True, slots=True)
class Reject:
    """Reject a delivery into the dead-letter exchange."""

    tag: int


class AckLedger:
    """The deliveries of one channel that the broker waits to hear of.

    A tag is outstanding from the moment that its delivery is taken until its own ack or reject is
    taken out to be written. Tags come in rising order, so a multiple ack covers exactly the wanted
    ones if it goes up to the highest wanted tag below which no other is outstanding.
    """

    def __init__(self) -> None:
        self._outstanding: dict[int, None] = {}  # in rising order
        self.last = 0
        """The tag of the delivery that came last; a channel's are numbered from 1 on."""
        self._to_ack: set[int] = set()
        self._to_reject: set[int] = set()
        self._writing = False

    @property
    def pending(self) -> bool:
        """Whether there are acks or rejects that are not on their way yet."""
        return self._writing or bool(self._to_ack or self._to_reject)

    def __len__(self) -> int:
        return len(self._outstanding)

    def delivered(self, tag: int) -> None:
        """A delivery came."""
        if tag <= self.last:
            raise AssertionError(f"delivery {tag} came after {self.last}")
        self.last = tag
        self._outstanding[tag] = None

    def ack(self, tag: int) -> None:
        """Its job is settled."""
        self._claim(tag)
        self._to_ack.add(tag)

    def reject(self, tag: int) -> None:
        """Its job is dead, or it is no job."""
        self._claim(tag)
        self._to_reject.add(tag)

    def take(self) -> list[Ack | Reject]:
        """Take out what is to be written now, in the order in which it has to be."""
        self._writing = True
        # Rejects first: a multiple ack may then pass over them.
        frames: list[Ack | Reject] = [Reject(tag) for tag in sorted(self._to_reject)]
        for tag in self._to_reject:
            del self._outstanding[tag]
        together: list[int] = []
        for tag in self._outstanding:
            if tag not in self._to_ack:
                break
            together.append(tag)
        if together:
            frames.append(Ack(together[-1], multiple=len(together) > 1))
        frames.extend(Ack(tag, multiple=False) for tag in sorted(self._to_ack.difference(together)))
        for tag in self._to_ack:
            del self._outstanding[tag]
        self._to_ack.clear()
        self._to_reject.clear()
        return frames

    def written(self) -> None:
        """What was taken out is on its way."""
        self._writing = False

    def _claim(self, tag: int) -> None:
        # Twice would close the channel with all its deliveries.
        if tag not in self._outstanding or tag in self._to_ack or tag in self._to_reject:
            raise AssertionError(f"delivery {tag} is not outstanding")
