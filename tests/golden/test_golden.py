"""Results are those that were frozen: to the bit on the machine that froze them, closely elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden.cases import CASES
from tests.golden.machine import machine

FOLDER = Path(__file__).parent
SAME_MACHINE = json.loads((FOLDER / "machine.json").read_text()) == machine()
FROZEN = np.load(FOLDER / "frozen.npz")


def frozen(name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): torch.from_numpy(FROZEN[k]) for k in FROZEN.files if k.startswith(prefix)}


@pytest.mark.parametrize("name", CASES)
def test_results_are_as_frozen(name: str) -> None:
    expected, found = frozen(name), CASES[name]()
    assert found.keys() == expected.keys()
    for key, value in found.items():
        value = value.float() if value.dtype == torch.bfloat16 else value
        if key.endswith("generator") or SAME_MACHINE:
            assert torch.equal(value.nan_to_num(-1.0), expected[key].nan_to_num(-1.0)), key
        else:
            tolerance = 0.05 if name in ("autocast", "half") else 2e-3
            torch.testing.assert_close(value, expected[key], rtol=tolerance, atol=tolerance, equal_nan=True, msg=key)
