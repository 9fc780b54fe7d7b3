"""What decides the last bits of a result: on another machine the frozen ones are compared within a tolerance."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """Version of PyTorch, and the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "torch": torch.__version__.split("+")[0],
        "processor": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
