"""Shares of the slots for several queues, by what waits in them at the broker."""

import asyncio
from collections.abc import Callable
from typing import Final, Never

from headway_core.errors import BrokerUnavailable
from headway_core.topology import Topology
from headway_worker.credit import CreditLedger, fair_shares

BALANCE_SECONDS: Final = 0.25
"""How often the shares are adjusted, while one of them is used up."""


async def balance(
    topology: Topology,
    ledger: CreditLedger,
    *,
    changed: Callable[[], None],
    idle: Callable[[], bool],
) -> Never:
    """Set the ledger's targets until cancelled; `changed` is called when they are new ones.

    Nothing is asked of the broker while `idle` says so, or while every queue has credit to spare.
    Raises BrokerUnavailable if a queue is gone.
    """
    while True:
        await asyncio.sleep(BALANCE_SECONDS)
        if idle() or not ledger.saturated:
            continue
        demand = {}
        for queue in ledger.queues:
            ready = await topology.ready_count(queue)
            if ready is None:
                raise BrokerUnavailable(f"queue {queue} is gone")
            demand[queue] = ready + ledger.busy(queue)
        targets = fair_shares(ledger.slots, demand, order=ledger.longest_without_first)
        if targets != ledger.targets:
            ledger.targets = targets
            changed()
