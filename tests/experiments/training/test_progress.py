"""Progress in bars and in log lines."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import pytest

from experiments.training import progress
from experiments.training.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, in seconds, as a list of one number."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_at_every_tenth(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    with caplog.at_level(logging.INFO), Progress() as shown:
        bar = shown.task("student hard", total=200, completed=95)
        for step in range(96, 201):
            clock[0] += 2.0
            bar.update(step, note=f"loss {step / 1000:.3f}")
    assert len(caplog.messages) == 6  # at 100, 120, ... 200
    assert caplog.messages[0] == "student hard: 100 of 200, 10 s elapsed, 3 min remaining, loss 0.100"
    assert caplog.messages[-1] == "student hard: 200 of 200, 4 min elapsed, 0 s remaining, loss 0.200"


def test_short_tasks_and_no_note(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    with caplog.at_level(logging.INFO), Progress() as shown:
        shown.task("teacher", total=3).update(2)
        shown.task("nothing", total=0).update(0)
    assert caplog.messages == ["teacher: 2 of 3, 0 s elapsed, 0 s remaining"]


def test_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO), Progress(quiet=True) as shown:
        shown.task("student", total=2).update(2)
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal_below_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    screen: Any = Terminal()
    for name in ("stderr", "stdout"):
        monkeypatch.setattr(sys, name, screen)
    monkeypatch.setenv("TERM", "xterm")
    handler = logging.StreamHandler(screen)
    logging.getLogger().addHandler(handler)
    try:
        with Progress() as shown:
            bar = shown.task("student", total=20, completed=3)
            bar.update(7, note="loss 0.123")
            logging.getLogger("some").warning("student: a message")
            assert handler.stream is not screen
        assert handler.stream is screen
    finally:
        logging.getLogger().removeHandler(handler)
    text = screen.getvalue()
    assert " 7/20" in text
    assert "loss 0.123" in text
    assert "a message\n" in text  # on a line of its own
