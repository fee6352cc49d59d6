"""The deliveries in hand and the slots they take: what is known of them, without effects."""

from headway_worker.acks import AckLedger
from headway_worker.credit import CreditLedger
from headway_worker.deliveries import Custody, Delivery


class Holdings:
    """All deliveries that somebody owns, and the ledgers that follow from them.

    A delivery's slot is freed once, by whichever comes last: its owner being done with it, or a
    hand-off that was under way.
    """

    def __init__(self, credit: CreditLedger) -> None:
        self.credit = credit
        self.acks = AckLedger()
        """Of the channel there is now."""
        self._in_hand: set[Delivery] = set()

    def __len__(self) -> int:
        """Deliveries in hand."""
        return len(self._in_hand)

    def take(self, delivery: Delivery) -> None:
        """A delivery came that somebody owns from now on."""
        self.acks.delivered(delivery.tag)
        self.credit.delivered(delivery.consumer_tag, delivery.queue)
        self._in_hand.add(delivery)

    def refuse(self, tag: int, consumer_tag: str, queue: str, *, rejected: bool) -> None:
        """A message came that is no delivery: it is rejected, or dropped."""
        self.acks.delivered(tag)
        self.credit.delivered(consumer_tag, queue)
        (self.acks.reject if rejected else self.acks.ack)(tag)
        self.credit.freed(consumer_tag, queue)

    def end(self, delivery: Delivery, *, rejected: bool) -> None:
        """Its owner is done with it."""
        delivery.over = True
        match delivery.custody:
            case Custody.BROKER:
                (self.acks.reject if rejected else self.acks.ack)(delivery.tag)
                self._in_hand.discard(delivery)
                self.credit.freed(delivery.consumer_tag, delivery.queue)
            case Custody.HANDING_OFF:
                pass  # the hand-off acks it and frees the slot
            case Custody.DATABASE:
                self.credit.detached_freed(delivery.queue)

    def abandon(self, delivery: Delivery) -> None:
        """Its owner leaves it to others: its slot is free when the channel is gone."""
        delivery.over = True
        if delivery.custody is Custody.DATABASE:
            self.credit.detached_freed(delivery.queue)

    def begin_hand_off(self, *, claimed_before: float) -> list[Delivery]:
        """Take old deliveries out of every other owner's reach: a second ack would close the
        channel.
        """
        due = [
            delivery
            for delivery in self._in_hand
            if delivery.claimed_at is not None
            and delivery.claimed_at <= claimed_before
            and not delivery.settling
            and not delivery.over
        ]
        for delivery in due:
            delivery.custody = Custody.HANDING_OFF
        return due

    def hand_off(self, delivery: Delivery) -> None:
        """Ack it while its job runs on; its consumer has been cancelled."""
        delivery.custody = Custody.DATABASE
        self._in_hand.discard(delivery)
        self.acks.ack(delivery.tag)
        self.credit.detach(delivery.queue)
        if delivery.over:
            self.credit.detached_freed(delivery.queue)

    def channel_lost(self) -> None:
        """All deliveries are gone; their runs keep their slots."""
        self.acks = AckLedger()
        self.credit.channel_lost()
        for delivery in self._in_hand:
            delivery.custody = Custody.DATABASE
            if delivery.over:
                self.credit.detached_freed(delivery.queue)
        self._in_hand.clear()
