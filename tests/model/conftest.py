"""The report says at the end how many states were explored."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "states"
    ]
    if counts:
        terminalreporter.write_line(f"explored: {sum(counts)} states in {len(counts)} runs")
