"""How the queues and the outbox stand, sampled for the metrics now and then."""

import asyncio
import random
from datetime import timedelta
from typing import Final, Never

from headway_core import outbox, sweeps
from headway_core.database import Database
from headway_core.errors import StoreUnavailable
from headway_core.metrics import Metrics
from headway_server.streak import Streak

PERIOD: Final = timedelta(seconds=10)


async def sample(database: Database, metrics: Metrics) -> Never:
    """Sample until cancelled."""
    streak = Streak("gauges")
    while True:
        try:
            metrics.show_queues(await sweeps.queue_statistics(database))
            metrics.show_outbox_lag(await outbox.lag(database))
        except StoreUnavailable as error:
            streak.failed(error)
        else:
            streak.worked()
        await asyncio.sleep(PERIOD.total_seconds() * random.uniform(0.9, 1.1))
