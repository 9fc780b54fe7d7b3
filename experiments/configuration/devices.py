"""The device of a run."""

from __future__ import annotations

import platform

import torch


def choose_device(name: str) -> torch.device:
    """Return a device; `name`: `auto`, or any device name of torch.

    Raises:
        ValueError: the device is unknown, or there is no CUDA device.
    """
    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name}: torch finds no CUDA device here; use device=cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name}: expected auto, cpu, cuda or cuda:<index>") from error


def device_name(device: torch.device) -> str:
    """Return a human-readable name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"
