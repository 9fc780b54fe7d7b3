"""No call waits for the device, found out without one; `test_gpu.py` finds out with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_nothing_waits() -> None:
    script = Path(__file__).with_name("fake_device.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(script.parents[1])},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    waits = json.loads(result.stdout)
    assert len(waits) >= 26
    assert {name: found for name, found in waits.items() if found} == {}
