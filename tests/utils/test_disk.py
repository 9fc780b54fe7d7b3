"""Errors of a full disk, which Linux has as a device, and a SIGTERM outside of training."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from experiments import train
from experiments.runs.status import read, record_status, write_json
from experiments.training import checkpoint
from experiments.training.interrupts import exit_on_interrupt
from hard_aug.utils import disk
from tests.experiments.test_experiments_configs import composed

FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")


@full
def test_a_full_disk_is_explained_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "metrics.tmp").symlink_to(FULL)
    with (
        pytest.raises(OSError, match=r"a disk is full .* MiB left\).* Free some space") as raised,
        record_status(tmp_path, []),
        disk.explain_disk_full(tmp_path),
    ):
        write_json(tmp_path / "metrics.json", {"accuracy": 1.0})
    assert raised.value.errno == errno.ENOSPC
    assert not (tmp_path / "metrics.json").exists()
    found = read(tmp_path)
    assert found is not None
    assert found["state"] == "failed"
    assert "resumes from its last checkpoint" in found["error"]["message"]


def test_a_full_disk_is_found_among_the_causes(tmp_path: Path) -> None:
    def failed() -> None:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        except OSError as error:
            raise RuntimeError("Error in call to target") from error

    with pytest.raises(OSError, match="a disk is full") as raised, disk.explain_disk_full(tmp_path):
        failed()
    assert raised.value.errno == errno.EDQUOT


@full
def test_the_error_of_a_checkpoint_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.tmp").symlink_to(FULL)
    with (
        pytest.raises(OSError, match=r"the checkpoint could not be written") as raised,
        disk.explain_disk_full(tmp_path),
    ):
        checkpoint.save(tmp_path / "checkpoint.pt", {"step": 1})
    assert "there is no" in str(raised.value)


def test_other_errors_are_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"), disk.explain_disk_full(tmp_path):
        (tmp_path / "missing").read_text()


@full
@pytest.mark.slow
def test_a_run_resumes_once_there_is_space(tmp_path: Path) -> None:
    config = composed(
        f"teacher_cache={tmp_path}/teachers",
        "threads=1",
        "teacher.steps=1",
        "steps=2",
        "batch_size=4",
        "students=[kd]",
        "logger=csv",
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.tmp").symlink_to(FULL)
    with pytest.raises(OSError, match="a disk is full"), disk.explain_disk_full(folder):
        train.run(config, folder, quiet=True, figures=False)
    (folder / "metrics.tmp").unlink()
    before = (folder / "curves" / "kd.csv").read_text()
    metrics = train.run(config, folder, quiet=True, figures=False)
    assert set(metrics["students"]) == {"kd"}
    assert (folder / "curves" / "kd.csv").read_text() == before  # nothing was trained again


def test_sigterm_stops_a_run_that_is_not_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    former = signal.getsignal(signal.SIGTERM)

    def terminated() -> None:
        with exit_on_interrupt(tmp_path), record_status(tmp_path, []):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)  # a signal is looked at between two instructions

    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as raised:
        terminated()
    assert raised.value.code == 130
    assert "run the same command again to resume" in caplog.text
    found = read(tmp_path)
    assert found is not None
    assert found["state"] == "stopped"
    assert signal.getsignal(signal.SIGTERM) is former
