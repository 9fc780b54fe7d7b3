"""The device of a run."""

from __future__ import annotations

import pytest
import torch

from experiments.configuration.devices import choose_device, device_name


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert device_name(torch.device("cpu")).endswith(", 1 thread")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device=cuda: torch finds no CUDA device here; use device=cpu"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="device=foo: expected auto, cpu, cuda or cuda:<index>"):
        choose_device("foo")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
