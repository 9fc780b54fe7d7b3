"""Train one student with one method: `python -m experiments.train [group=option ...] [key=value ...]`.

Trains the teacher first, or loads it from the cache. `-m method=kd,random,hard seed=0,1,2` makes one run of each
combination; `python -m experiments.report` makes tables and figures of them. Ctrl-C stops at the end of a step; the
same command resumes, and a finished run is not repeated.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from experiments.configuration.command import hydra_command
from experiments.configuration.settings import compose_with, trial_settings

logger = logging.getLogger(__name__)


@hydra_command("train")
def main(config: DictConfig) -> float:
    """Run from the command line; return the validation accuracy, for sweepers."""
    from experiments.methods import UnsupportedPartsError
    from experiments.runs.student import run
    from experiments.runs.summary import summary_table

    folder = Path(HydraConfig.get().runtime.output_dir)
    settings, trials = trial_settings(config)
    chosen = compose_with(settings) if settings else config
    try:
        record = run(chosen, folder, base=config, settings=settings, trials=trials)
    except UnsupportedPartsError as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        logger.warning("skipped: %s", error)
        return float("nan")
    Console().print(summary_table(record))
    Console().print(f"{folder}", soft_wrap=True, markup=False, highlight=False)
    return float(record["student"]["validation"]["main"])


if __name__ == "__main__":
    main()
