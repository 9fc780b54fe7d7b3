"""States that fit and those that do not; what an augmenter does with them is tested in tests/setups."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hard_aug.utils.state_checks import check_like

STATE: dict[str, Any] = {
    "policy": {"mean": torch.zeros(3), "limit": torch.tensor([1.0, float("inf")])},
    "count": torch.tensor(3),
    "flags": torch.tensor([True, False]),
    "rate": 0.5,
    "betas": (0.9, 0.99),
    "on": True,
    "kind": "adam",
    "nothing": None,
}


def changed(**entries: Any) -> dict[str, Any]:
    return {**STATE, **entries}


@pytest.mark.parametrize(
    "given",
    [
        changed(),
        changed(rate=1),
        changed(betas=[0.5, 0.5]),  # JSON has lists only
        changed(policy={"mean": torch.ones(3, dtype=torch.float64), "limit": torch.ones(2)}),
        dict(reversed(STATE.items())),
    ],
)
def test_states_that_fit(given: dict[str, Any]) -> None:
    check_like(given, STATE, "state")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"state: expected \['betas', .*, got \[\]"),
        ([], "state: expected .*, got list"),
        (changed(more=1), "state: expected .*'more'"),
        (changed(policy=None), r"state\['policy'\]: expected \['limit', 'mean'\], got NoneType"),
        (changed(policy={"mean": torch.zeros(2), "limit": torch.ones(2)}), r"\['mean'\]: .*\(3,\), got .*\(2,\)"),
        (
            changed(policy={"mean": torch.zeros(3).int(), "limit": torch.ones(2)}),
            r"\['mean'\]: .*float32.*, got .*int32",
        ),
        (changed(policy={"mean": torch.full((3,), float("nan")), "limit": torch.ones(2)}), "got NaN or infinity"),
        (
            changed(policy={"mean": torch.full((3,), 1e300, dtype=torch.float64), "limit": torch.ones(2)}),
            "got NaN or infinity",
        ),
        (changed(count=torch.tensor(3.0)), r"state\['count'\]: expected torch\.int64"),
        (changed(count=3), r"state\['count'\]: expected torch\.int64 of shape \(\), got int"),
        (changed(flags=torch.tensor([1, 0])), r"state\['flags'\]"),
        (changed(rate=float("nan")), r"state\['rate'\]: expected a finite number, got nan"),
        (changed(rate="0.5"), "expected a finite number, got '0.5'"),
        (changed(rate=True), "expected a finite number, got True"),
        (changed(betas=(0.9,)), r"state\['betas'\]: expected 2 values"),
        (changed(betas=(0.9, None)), r"state\['betas'\]\[1\]: expected a finite number"),
        (changed(on=1), r"state\['on'\]: expected True, got 1"),
        (changed(kind="sgd"), "expected 'adam', got 'sgd'"),
        (changed(nothing=0), "expected None, got 0"),
    ],
)
def test_states_that_do_not_fit(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_like(given, STATE, "state")
