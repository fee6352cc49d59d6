"""Claims made by hand, for tests that need no database."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from headway_core.claims import Claim
from headway_core.job import DEFAULT_POLICY
from headway_core.states import Isolation


def make_claim(job_id: UUID, *, run_epoch: int = 1) -> Claim:
    """A claim with plain defaults."""
    now = datetime.now(UTC)
    return Claim(
        job_id=job_id,
        claim_id=uuid4(),
        run_epoch=run_epoch,
        type="noop",
        queue="default",
        attempt=1,
        failures=0,
        crashes=0,
        isolation=Isolation.NONE,
        policy=DEFAULT_POLICY,
        timeout=None,
        payload=None,
        labels={},
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        tracestate="",
        cancel_requested=False,
        create_time=now,
        queue_time=None,
        start_time=now,
        sequence=2,
    )
