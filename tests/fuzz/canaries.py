"""Secrets, what has been seen of them, and a database that tells them in its errors."""

import contextlib
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import aio_pika
import asyncpg
import grpc

from headway_core.topology import DEAD_EXCHANGE, HINTS_EXCHANGE, JOBS_EXCHANGE
from tests.fuzz.attacked import SERVICE, answer_of

PLACES = ("payload", "result", "text", "key", "label", "database", "amqp", "wrong")
CALL_SECONDS = 10.0

# As constraints of anybody's might: asyncpg's texts of errors hold the DETAIL.
QUOTING = """
CREATE SEQUENCE refusals;
CREATE FUNCTION quote_the_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('refusals');
    RAISE EXCEPTION 'refused' USING ERRCODE = TG_ARGV[0], DETAIL = to_jsonb(NEW)::text;
END $$;
CREATE TRIGGER a BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.type = 'canary.defect')
    EXECUTE FUNCTION quote_the_row('23514');
CREATE TRIGGER b BEFORE INSERT ON jobs FOR EACH ROW WHEN (NEW.type = 'canary.memory')
    EXECUTE FUNCTION quote_the_row('53200');
CREATE TRIGGER c BEFORE INSERT ON idempotency_keys FOR EACH ROW WHEN (NEW.key LIKE '%quoted')
    EXECUTE FUNCTION quote_the_row('23514');
CREATE TRIGGER d BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (NEW.type = 'canary.settle' AND NEW.state = 4) EXECUTE FUNCTION quote_the_row('23514');
CREATE TRIGGER e BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (NEW.type = 'canary.wait' AND NEW.state = 4) EXECUTE FUNCTION quote_the_row('53200');
"""
NOT_QUOTING = "DROP FUNCTION quote_the_row() CASCADE"
REFUSALS = "SELECT last_value AS count FROM refusals"


class Canary:
    """One secret for each place, so that a find tells where it came from."""

    def __init__(self) -> None:
        self.of = {place: f"canary{place}{secrets.token_hex(12)}" for place in PLACES}
        self._needles = {
            needle: place for place, secret in self.of.items() for needle in _spellings(secret)
        }

    def found_in(self, data: bytes) -> set[str]:
        """The places whose secret is in there, in any spelling."""
        return {place for needle, place in self._needles.items() if needle in data}


def _spellings(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield secret.encode().hex().encode()
    for before in range(3):  # base64 depends on what stands in front
        encoded = b64encode(b"x" * before + secret.encode())
        yield encoded[4:-4]


@dataclass
class Seen:
    """All that left the processes by ways that others read."""

    messages: list[bytes] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def tapped(amqp_url: str, seen: Seen) -> AsyncIterator[None]:
    """Get a copy of every message, with all its properties."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        tap = await channel.declare_queue(exclusive=True)
        for name in (JOBS_EXCHANGE, DEAD_EXCHANGE, HINTS_EXCHANGE):
            kind = "fanout" if name == HINTS_EXCHANGE else "direct"
            exchange = await channel.declare_exchange(name, kind, durable=True)
            await tap.bind(exchange, routing_key="default")

        async def keep(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            seen.messages.append(message.body + repr(message.info()).encode())

        await tap.consume(keep, no_ack=True)
        yield


async def run_script(url: str, script: str) -> None:
    """Run statements on a database."""
    connection = await asyncpg.connect(url, timeout=30)
    try:
        await connection.execute(script)
    finally:
        await connection.close(timeout=30)


async def call(target: str, method: str, raw: bytes, seen: Seen) -> str:
    """Send a request once; return its reason, and keep what its caller got if it is refused."""
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            await channel.unary_unary(f"/{SERVICE}/{method}")(raw, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            answer = answer_of(error)
            seen.errors.append(answer.text)
            return answer.reason
    return ""


def told(error: BaseException) -> str:
    """All that a caller gets of an error: its text, and that of the call behind it."""
    cause = error.__cause__
    return str(error) + (answer_of(cause).text if isinstance(cause, grpc.RpcError) else "")
