"""How notebooks show a job: a small table with a bar, no scripts, no styles of its own."""

from html import escape

from headway.jobs import Job


def job_as_html(job: Job) -> str:
    """HTML for `_repr_html_`; every value is escaped."""
    rows = [
        ("id", f"<code>{escape(job.id)}</code>"),
        ("type", escape(job.type)),
        ("queue", f"{escape(job.queue)} (priority {job.priority})"),
        ("state", f"<b>{escape(job.state)}</b>, attempt {job.attempt} of {job.max_attempts}"),
    ]
    if job.progress is not None:
        fraction = job.progress.fraction
        shown = "" if fraction is None else f"{_bar(fraction)} {fraction:.0%} "
        words = ": ".join(filter(None, (job.progress.step, job.progress.message)))
        rows.append(("progress", shown + escape(words)))
    if job.error is not None:
        rows.append(("error", escape(str(job.error))))
    if job.labels:
        pairs = ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))
        rows.append(("labels", escape(pairs)))
    cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _bar(fraction: float) -> str:
    return f'<progress max="1" value="{min(max(fraction, 0.0), 1.0):.4f}"></progress>'
