"""What a check has to say."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is. Only WRONG makes the doctor's exit code 1."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for people, and how to mend what is wrong. Never holds a secret."""

    verdict: Verdict
    subject: str
    text: str
    mend: str = ""


def ok(subject: str, text: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(Verdict.OK, subject, text)


def note(subject: str, text: str, mend: str = "") -> Finding:
    """Say something worth knowing that is no fault."""
    return Finding(Verdict.NOTE, subject, text, mend)


def wrong(subject: str, text: str, mend: str) -> Finding:
    """Say what is wrong and how to mend it."""
    return Finding(Verdict.WRONG, subject, text, mend)
