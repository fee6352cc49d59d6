"""What a soak has to say at its end."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.soak.ledger import Ledger
from tests.soak.recovery import Recovery, percentile
from tests.soak.sampling import JUDGED_SECONDS_MIN, PER_HOUR_MAX
from tests.soak.slopes import Slope


def print_load(*, seconds: float, ledger: Ledger, wanted: float) -> None:
    """Calls and completions."""
    completed = ledger.counts["completed under load"]
    print(
        f"\nload held for {seconds:.0f} s: {ledger.accepted / seconds:.1f} jobs/s accepted"
        f" ({ledger.accepted / wanted:.0%} of what was wanted), {completed / seconds:.1f} completed"
    )
    jobs = {key: count for key, count in ledger.counts.items() if key.startswith("jobs ")}
    print(_line((key, count) for key, count in ledger.counts.items() if key not in jobs))
    states = {"4": "COMPLETED", "6": "DEAD", "7": "CANCELLED"}
    for key, count in sorted(jobs.items()):
        _, type_, state = key.split()
        print(f"  {type_:16} {states.get(state, state):10} {count:8}")


def print_recovery(survived: Counter[str], recoveries: Iterable[Recovery]) -> None:
    """How often each fault was survived, and how long that took."""
    print(f"\nfaults survived: {survived.total()}")
    print("                            next submit accepted, s    all of before done, s")
    print("  fault             times       p50     p95     max             p50     p95     max")
    by_kind: dict[str, list[Recovery]] = {}
    for recovery in recoveries:
        by_kind.setdefault(recovery.kind, []).append(recovery)
    for kind, found in sorted(by_kind.items()):
        accepted = _percentiles([one.accepted for one in found])
        done = _percentiles([one.done for one in found])
        print(f"  {kind:17} {survived[kind]:5} {accepted}        {done}")


def print_slopes(slopes: dict[tuple[str, str], Slope]) -> None:
    """What grew, by least squares over all processes of a role, each with a level of its own."""
    print(f"\nslopes per hour (± standard error; judged from {JUDGED_SECONDS_MIN:.0f} s on)")
    print("  role        of               slope             bound    highest  longest life, s")
    for (role, measure), line in slopes.items():
        print(
            f"  {role:11} {measure:12} {line.per_hour:9.1f} ± {line.error:<8.1f}"
            f" {PER_HOUR_MAX[measure]:8.0f} {line.highest:10.1f} {line.seconds:10.0f}"
        )


def print_verdict(ledger: Ledger) -> None:
    """The last words."""
    if ledger.findings_count:
        print(f"\nverdict: {ledger.findings_count} findings")
        for finding in ledger.findings:
            print(f"  {finding}")
    else:
        print(f"\nverdict: nothing lost, nothing wrong in {ledger.counts['jobs']} histories")


def keep(path: Path, recoveries: Iterable[Recovery], **more: object) -> None:
    """Keep the raw figures, to be put together with those of other soaks."""
    path.write_text(json.dumps({**more, "recoveries": [asdict(one) for one in recoveries]}))


def combine(paths: Iterable[Path]) -> int:
    """Print what several soaks have kept, together. Returns 1 if any found something."""
    found = [json.loads(path.read_text()) for path in paths]
    seconds = sum(one["seconds"] for one in found)
    print(
        f"{len(found)} soaks (seeds {', '.join(str(one['seed']) for one in found)}),"
        f" {seconds / 60:.0f} minutes: {_sum(found, 'accepted') / seconds:.1f} jobs/s accepted"
        f" ({_sum(found, 'accepted') / _sum(found, 'wanted'):.0%} of what was wanted),"
        f" {_sum(found, 'completed') / seconds:.1f} completed, {_sum(found, 'jobs'):.0f} jobs"
    )
    survived: Counter[str] = Counter()
    for one in found:
        survived.update(one["survived"])
    print_recovery(survived, [Recovery(**each) for one in found for each in one["recoveries"]])
    for one in found:
        print(f"\nseed {one['seed']}: {len(one['findings'])} findings")
        for role, measure, per_hour, error, *_ in one["slopes"]:
            print(f"  {role:11} {measure:12} {per_hour:9.1f} ± {error:<8.1f}")
    return int(any(one["findings"] for one in found))


def _sum(reports: Iterable[dict[str, Any]], key: str) -> float:
    return sum(one[key] for one in reports)


def _percentiles(values: list[float]) -> str:
    return " ".join(
        f"{value:7.1f}"
        for value in (percentile(values, 0.5), percentile(values, 0.95), max(values))
    )


def _line(counts: Iterable[tuple[str, int]]) -> str:
    return "  " + " · ".join(f"{count} {key}" for key, count in counts)
