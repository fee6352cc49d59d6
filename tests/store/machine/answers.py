"""What an operation answers when it has met another, and what is counted of answers."""

from collections.abc import Collection
from uuid import UUID

from tests.store.machine.reference import Reference
from tests.store.machine.world import Operation


def locked_by(waiting: Operation, reference: Reference, held: Collection[UUID]) -> set[UUID]:
    """What one that waits has locked itself: by order of job IDs, up to what is held."""
    wanted = waiting.locks(reference)
    first = min(wanted & set(held), default=None)
    return {id_ for id_ in wanted if first is None or id_ < first}


def after_wait(
    waiting: Operation,
    after: Reference,
    before: Reference,
    ahead: Reference,
    held: Collection[UUID],
) -> object:
    """What it answers once it may go on; `ahead` is what came of `before` while it waited.

    One that skips locked jobs and waits for a lease has left out those that were `held` then.
    """
    answer = waiting.expect(after, held if waiting.skips else (), ())
    if waiting.kind == "cancel":
        # A statement that waits does not see the rows written meanwhile, so it leaves a message
        # behind, which finds nothing to do.
        for number, row in ahead.outbox.items() - before.outbox.items():
            after.outbox.setdefault(number, row)
    return answer


def words(answer: object) -> list[str]:
    """What is counted of an answer."""
    match answer:
        case [*items] if isinstance(answer, list) and items:
            found = [words(item) for item in items]
            return ["some"] if not any(found) else [word for part in found for word in part]
        case str():
            return [answer]
        case (str() as word, *_):
            return [word]
        case None:
            return ["done"]
        case bool() | int() | []:
            return ["some" if answer else "none"]
        case _:
            return []
