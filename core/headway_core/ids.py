"""IDs, as asyncpg reads them from rows: UUIDs that are made, written and hashed in C."""

from uuid import UUID

import uuid_utils
from asyncpg.pgproto import pgproto


def new_job_id() -> UUID:
    """Make an ID that sorts by its time (UUIDv7)."""
    return pgproto.UUID(uuid_utils.uuid7().bytes)


def new_claim_id() -> UUID:
    """Make an ID at random (UUIDv4)."""
    return pgproto.UUID(uuid_utils.uuid4().bytes)


def read_id(text: str) -> UUID:
    """Read an ID in its usual form."""
    return pgproto.UUID(text)
