"""No call synchronises with the device or needs float64 on it: tested without one, and with one in `test_gpu.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.fake_device import CONTROL


@pytest.mark.slow
def test_no_operator_synchronises() -> None:
    script = Path(__file__).parents[1] / "helpers" / "fake_device.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(script.parents[2])},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    synchronizing = json.loads(result.stdout)
    reported = {line.split(" in ")[0] for line in synchronizing.pop(f"{CONTROL}, torch")}
    assert reported == {"aten::_to_copy", "float64 of aten::_to_copy"}
    assert len(synchronizing) >= 29
    assert {name: found for name, found in synchronizing.items() if found} == {}
