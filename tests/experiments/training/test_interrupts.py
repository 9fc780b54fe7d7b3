"""The first signal is recorded, the second one takes effect at once."""

from __future__ import annotations

import signal

import pytest

from experiments.training.interrupts import Stop, defer_signals


def signalled_twice(number: signal.Signals) -> None:
    with defer_signals() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_requests_a_stop_and_the_second_one_raises(number: signal.Signals) -> None:
    former = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        signalled_twice(number)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == former
    assert not Stop.requested
