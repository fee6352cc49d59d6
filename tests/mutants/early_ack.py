"""A worker's handlers, and with them a consumer that acks what it has just been given."""

import asyncio
from typing import Any

from headway_worker import Context, Jobs
from headway_worker.consumer import Consumer
from headway_worker.deliveries import Delivery

jobs = Jobs()


@jobs.handler("echo")
async def echo(ctx: Context, payload: Any) -> Any:
    return payload


_init, _end = Consumer.__init__, Consumer._end


def _init_early(self: Consumer, *arguments: Any, **given: Any) -> None:
    intake = given["intake"]

    def take(delivery: Delivery) -> None:
        intake(delivery)
        asyncio.get_running_loop().call_soon(self.ack, delivery)

    _init(self, *arguments, **{**given, "intake": take})


def _end_once(self: Consumer, delivery: Delivery, *, rejected: bool) -> None:
    if not delivery.over:
        _end(self, delivery, rejected=rejected)


Consumer.__init__ = _init_early  # type: ignore[method-assign]
Consumer._end = _end_once  # type: ignore[method-assign]
