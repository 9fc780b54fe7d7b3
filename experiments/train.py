"""The experiment: `python -m experiments.train [group=option ...] [key=value ...]`.

Trains a teacher (or takes it from the cache) and a student for each way of teaching, and leaves in the run's folder
`metrics.json`, `status.json`, `gallery.png`, `policy.png`, `diagnosis.png` and `.txt`, curves for TensorBoard and
`checkpoint.pt`. Ctrl-C stops at the end of a step; the same command goes on from there, and a finished run is not done
again. `-m key=1,2,3` makes a run of each, see `experiments.sweeps`.
"""

from __future__ import annotations

import logging
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from experiments import disk, processes
from experiments.chosen import RESULTS
from experiments.detection import detected
from experiments.evaluation import headline
from experiments.experiment import HARD, Experiment, check_numbers, trainer_settings
from experiments.jobs import settled
from experiments.memory import keep_freed_memory
from experiments.status import first_process, recorded, settle, write_json
from experiments.stop import graceful, told
from experiments.sweeps import check_returns, finished, returned
from experiments.training import progress_bar
from hard_aug import Diagnosis, diagnose
from hard_aug.viz import PolicyHistory, draw_diagnosis, draw_policy, gallery
from hard_aug.viz.policy import MOST_DRAWN

logger = logging.getLogger(__name__)
#: Test images that a diagnosis looks at.
EXAMINED = 500
PACKAGES = ("hard_aug", "torch", "torchvision", "kornia", "numpy", "hydra-core")


def choose_device(name: str) -> torch.device:
    """`auto`, or any name that torch knows."""
    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={name}: torch finds no CUDA device here; use device=cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name}: wanted auto, cpu, cuda, or one of several GPUs as in cuda:0") from error


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def run(config: DictConfig, folder: Path, *, quiet: bool = False, pictures: bool = True) -> dict[str, Any]:
    """Do the run, and return what `metrics.json` holds.

    Args:
        folder: of the run's results.
        quiet: no progress bar.
        pictures: draw the hard student's pictures and diagnose it, which takes as long as some hundred steps.
    """
    check_numbers(config)  # before threads are made of one
    device = choose_device(config.device)
    with processes.together(trainer_settings(config), device) as accelerator:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        if processes.count() > 1:
            device, quiet = accelerator.device, quiet or processes.rank() > 0
        return _run(config, folder, device, quiet=quiet, pictures=pictures)


def _run(config: DictConfig, folder: Path, device: torch.device, *, quiet: bool, pictures: bool) -> dict[str, Any]:
    with processes.first_alone():  # what is downloaded, is downloaded once
        splits = instantiate(config.data).to(device)
    folder.mkdir(parents=True, exist_ok=True)
    with graceful() as stop, progress_bar(quiet=quiet) as progress:
        experiment = Experiment(config, splits, folder, progress, stop)
        for job in experiment.jobs:
            experiment.train(job)
        detectors = detected(experiment)
        if processes.agreed(stop.requested):  # since the last step
            raise KeyboardInterrupt
    results = experiment.results()
    metrics: dict[str, Any] = {
        "teacher": experiment.teacher_metrics,
        "students": results,
        "sets": list(experiment.sets),
        "main": experiment.task.main,
        "size": experiment.size,
        "seed": config.seed,
        "device": device_name(device),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "config": experiment.identity,
    }
    if experiment.task.novel:
        metrics["novel_sets"] = list(experiment.task.novel)
    trials = experiment.trials()
    if trials:
        metrics["trials"] = trials
    if detectors:
        metrics["detectors"] = detectors
    if "hard" in results and pictures:
        metrics["policy"] = draw(experiment, folder)
        if processes.rank() == 0:
            metrics["diagnosis"] = examine(experiment, folder)
    if "hard" in results and "kd" in results:
        main = experiment.task.main
        base, top = results["kd"][main], experiment.teacher_metrics[main]
        metrics["gap_closed"] = round((results["hard"][main] - base) / (top - base), 4) if top > base else None
    if processes.rank() == 0:
        write_json(folder / RESULTS, metrics)
    return metrics


def draw(experiment: Experiment, folder: Path) -> dict[str, dict[str, Any]]:
    """Write the pictures of the hard student, and return the learned distribution."""
    finished = experiment.finished("hard")
    student = experiment.student()
    student.load_state_dict(finished["model"])
    augmenter = experiment.augmenter(student, experiment.chosen("hard") or HARD)
    augmenter.load_state_dict(finished["method"])
    shown = experiment.splits.test[slice(0, 8)].in_memory()
    hard = augmenter(shown.images, shown.labels)  # by all processes, which make one draw
    if processes.rank() == 0:
        gallery(hard, student, classes=experiment.splits.classes).savefig(folder / "gallery.png", dpi=130)
    history = PolicyHistory(augmenter.transform.spec)
    history.load_state_dict(finished["history"])
    if processes.rank() == 0:
        draw_policy(history, title="what the augmenter does").savefig(folder / "policy.png", dpi=110)
    last = history.last()
    for name, values in last.items():
        if name.startswith("translation"):
            values["sd_pixels"] = values["sd"] * experiment.size
    return last


def examine(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Diagnose before and after HARD, draw it, and return what there was and is to transfer.

    Before is the student of plain distillation, or an untrained one in a run without.
    """
    found: list[Diagnosis] = []
    shown = experiment.splits.test[slice(0, EXAMINED)].in_memory()
    finished = [job.row for job in experiment.jobs]
    settings = settled(experiment.config, experiment.chosen("hard") or HARD)
    for name in ("kd", "hard"):
        student = experiment.student()
        if name in finished:
            student.load_state_dict(experiment.finished(name)["model"])
        transform = instantiate(settings.transform)
        looked_at = diagnose(
            experiment.teacher, student, shown.images, transform, labels=shown.labels, seed=experiment.config.seed
        )
        found.append(looked_at)
    before, after = found
    draw_diagnosis(after, before=before, title="what the teacher ignores, and the student before and after").savefig(
        folder / "diagnosis.png", dpi=110
    )
    tables = [f"before ({'kd' if 'kd' in finished else 'untrained'})\n{before}", f"after\n{after}"]
    (folder / "diagnosis.txt").write_text("\n\n".join([*tables, after.transferred(before)]) + "\n")
    return {
        "missing_before": list(before.missing),
        "missing_after": list(after.missing),
        "to_transfer_before": {row.name: round(row.to_transfer, 4) for row in before.rows},
        "to_transfer_after": {row.name: round(row.to_transfer, 4) for row in after.rows},
    }


def table(metrics: dict[str, Any]) -> Table:
    """Accuracies in per cent and seconds."""
    sets = headline(metrics["sets"])
    columns = ("", *sets, "trials", "teacher keeps its class", "seconds")
    drawn = Table(*columns, title=f"accuracy in %, seed {metrics['seed']}")
    for column in drawn.columns[1:]:
        column.justify = "right"
    for name, values in {"teacher": metrics["teacher"], **metrics["students"]}.items():
        kept = values.get("teacher_keeps")
        drawn.add_row(
            f"{name} (x{values['scale']:g})" if "scale" in values else name,
            *(f"{100 * values[key]:.1f}" for key in sets),
            str(values.get("trials", "")),
            "" if kept is None else f"{100 * kept:.0f}",
            "cached" if values.get("cached") else f"{values['seconds']:.0f}",
        )
    return drawn


def show(metrics: dict[str, Any], folder: Path) -> None:
    """Print what a run found."""
    console = Console(quiet=not first_process())
    console.print(table(metrics))
    learned_parts = metrics.get("policy", {})
    for name, values in list(learned_parts.items())[:MOST_DRAWN]:
        pixels = f" = {values['sd_pixels']:.1f} px" if "sd_pixels" in values else ""
        low, high = values["range"]
        learned = f"{values['mean']:.3f} ± {values['sd']:.3f}{pixels}"
        console.print(f"  {name}: {learned} ({values['unit']}, range {low:.2f} to {high:.2f})", highlight=False)
    if len(learned_parts) > MOST_DRAWN:
        console.print(f"  and {len(learned_parts) - MOST_DRAWN} parameters more, in metrics.json")
    if metrics.get("gap_closed") is not None:
        console.print(f"HARD closed {100 * metrics['gap_closed']:.0f} % of the gap between KD and the teacher")
    if "diagnosis" in metrics:
        found = metrics["diagnosis"]
        for when in ("before", "after"):
            shares = ", ".join(
                f"{name} {100 * found[f'to_transfer_{when}'][name]:.0f} %" for name in found["missing_before"]
            )
            console.print(f"to transfer {when}: {shares or 'nothing'}", highlight=False)
    pictures = ", gallery.png, policy.png, diagnosis.png, diagnosis.txt" if "policy" in metrics else ""
    console.print(f"{folder}/metrics.json{pictures}", soft_wrap=True, markup=False)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """Hydra's entry; returns an accuracy as `returns` says, for sweepers: the last student's on validation data."""
    job = HydraConfig.get()
    folder, overrides = Path(job.runtime.output_dir), list(job.overrides.task)
    check_returns(config)
    metrics = finished(folder, config)
    if metrics is not None:
        settle(folder, overrides)
        logger.info("already done: %s", folder)
    else:
        alone = job.runtime.choices["hydra/launcher"] == "basic"  # the bars of several runs would overwrite each other
        with told(folder), recorded(folder, overrides), disk.explained(folder):
            metrics = run(config, folder, quiet=not alone)
    show(metrics, folder)
    return returned(metrics, config)


if __name__ == "__main__":
    main()
