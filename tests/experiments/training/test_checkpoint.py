"""Checkpoints: atomic writes, also on a full disk; the check of the configuration; and digests."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.training import checkpoint


def test_a_checkpoint_is_loaded_for_its_own_configuration_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "checkpoint.pt"
    config = {"steps": 12, "data": {"name": "mnist5k", "fraction": 1.0}}
    assert checkpoint.load(path, config) is None
    checkpoint.save(path, {"config": config, "weights": torch.arange(3.0)})
    found = checkpoint.load(path, dict(reversed(config.items())))
    assert found is not None
    assert found["weights"].tolist() == [0, 1, 2]
    differing = r"data\.crop: None there, 4 here; data\.name: mnist5k there, mnist here; steps: 12 there, None here"
    with pytest.raises(
        ValueError, match=rf"checkpoint\.pt is of a run .* \({differing}\).*hydra\.run\.dir.*resume=false"
    ):
        checkpoint.load(path, {"data": {"name": "mnist", "fraction": 1.0, "crop": 4}})


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """In a process that may write files of at most 64 KiB."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"config": {}, "weights": torch.zeros(100)})
    former, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written .*checkpoint\.pt is unchanged.* free some space"):
            checkpoint.save(path, {"config": {}, "weights": torch.zeros(2**20)})
        with pytest.raises(OSError, match=r"there is no .*new\.pt yet"):
            checkpoint.save(tmp_path / "new.pt", {"weights": torch.zeros(2**20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    found = checkpoint.load(path, {})
    assert found is not None
    assert torch.equal(found["weights"], torch.zeros(100))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_digest_covers_weights_buffers_and_their_names() -> None:
    torch.manual_seed(0)
    model, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert checkpoint.digest(model) == checkpoint.digest(other)
    assert checkpoint.digest(model, other) != checkpoint.digest(model)
    other.running_mean[1] += 1e-6  # type: ignore[index]  # it has statistics
    assert checkpoint.digest(model) != checkpoint.digest(other)
    assert checkpoint.digest(model) != checkpoint.digest(nn.Sequential(model))
