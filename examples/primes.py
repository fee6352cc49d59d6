"""Work that keeps the processor busy: in a child process, where it slows no other job down.

With `isolation="process"` the handler runs alone in a child of its own. A plain `def` in a thread
would share Python's interpreter lock with every other job of the worker; and a child can be killed
when its time is up, which a thread cannot.
"""

from collections.abc import Sequence
from datetime import timedelta
from math import isqrt

from examples.fields import Fields
from headway_worker import Context, Jobs

jobs = Jobs()

SEGMENT_NUMBERS = 1_000_000
BELOW_MAX = 1_000_000_000


@jobs.handler("demo.primes", isolation="process", timeout=timedelta(minutes=5))
def primes(ctx: Context, payload: dict[str, object]) -> dict[str, object]:
    """Count the primes below a number, a segment at a time: `{"below": 20000000}`."""
    fields = Fields(payload, known=("below",))
    below = fields.integer("below", default=20_000_000, minimum=2, maximum=BELOW_MAX)

    divisors = primes_between(2, isqrt(below) + 1, divisors=range(2, isqrt(isqrt(below)) + 1))
    count = 0
    for start in range(2, below, SEGMENT_NUMBERS):
        ctx.raise_if_cancelled()
        end = min(start + SEGMENT_NUMBERS, below)
        count += len(primes_between(start, end, divisors=divisors))
        ctx.progress(end, below, step="sieve")
    return {"below": below, "primes": count}


def primes_between(start: int, end: int, *, divisors: Sequence[int]) -> list[int]:
    """The primes from start to end - 1; divisors hold each prime up to the root of end."""
    is_prime = bytearray(b"\x01") * (end - start)
    for divisor in divisors:
        first = max(divisor * divisor, -(-start // divisor) * divisor)
        multiples = range(first - start, end - start, divisor)
        is_prime[first - start :: divisor] = bytes(len(multiples))
    return [start + offset for offset, flag in enumerate(is_prime) if flag]
