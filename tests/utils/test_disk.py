"""Errors of a full disk, which Linux has as a device."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from experiments.runs.student import run
from experiments.training import checkpoint
from hard_aug.utils import disk
from tests.helpers.engine_parts import small_config

FULL = Path("/dev/full")
full = pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")


@full
def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    message = r"a disk is full .* MiB left\).* Free some space .* resumes from its last checkpoint"
    with pytest.raises(OSError, match=message) as raised, disk.explain_disk_full(tmp_path):
        FULL.write_text("text")
    assert raised.value.errno == errno.ENOSPC


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
    (tmp_path / f"checkpoint.pt.{os.getpid()}.tmp").symlink_to(FULL)
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
    config, folder = small_config(tmp_path, "method=kd"), tmp_path / "run"
    folder.mkdir()
    (folder / f"student.pt.{os.getpid()}.tmp").symlink_to(FULL)
    with pytest.raises(OSError, match="free some space"):
        run(config, folder, quiet=True)
    before = (folder / "curves.csv").read_text()
    assert run(config, folder, quiet=True)["method"] == "kd"
    assert (folder / "curves.csv").read_text() == before  # nothing was trained again
