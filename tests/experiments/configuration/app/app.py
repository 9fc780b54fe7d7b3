"""A command that does what its key `what` says, and a function that calls it in this process."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.configuration.command import hydra_command
from hard_aug.utils.checks import check_integer

CONF = Path(__file__).parent / "conf"
logger = logging.getLogger(__name__)


@hydra_command("train")
def main(config: DictConfig) -> float:
    check_integer(steps=config.steps)
    if config.what == "build":
        instantiate({"_target_": config.method._target_, "rotation": config.method.rotation})
    logger.info("working")
    (Path(HydraConfig.get().runtime.output_dir) / "work").write_text("done")
    match config.what:
        case "nan_loss":
            raise FloatingPointError("the loss is nan at step 50")
        case "memory":
            raise torch.OutOfMemoryError("out of memory; lower batch_size")
        case "disk":
            raise OSError(28, "No space left on device")
        case "bug":
            return {}["missing"]
        case "parse":
            return int("three")
        case "package":
            import there_is_no_such_package  # type: ignore[import-not-found]  # noqa: F401
        case "interrupt":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)  # a signal is looked at between two instructions
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "wait":
            while True:
                time.sleep(0.02)
    return float(config.steps)


@contextmanager
def kept_logging() -> Iterator[None]:
    """Restore the handlers of the root logger, which Hydra replaces."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level


def call(folder: Path, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """Call the command with `folder` for its runs; return the exit status and the lines of stderr."""
    place = (f"hydra.sweep.dir={folder}", "hydra.job.name=app")
    status = 0
    capfd.readouterr()
    try:
        with kept_logging(), mock.patch.object(sys, "argv", ["app.py", "--config-path", str(CONF), *words, *place]):
            main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, capfd.readouterr().err.splitlines()


if __name__ == "__main__":
    main()
