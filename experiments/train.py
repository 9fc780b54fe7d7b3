"""Run an experiment: `python -m experiments.train [group=option ...] [key=value ...]`.

Trains a teacher (or loads it from the cache) and one student for each training method, and writes `metrics.json`,
`status.json`, `gallery.png`, `policy.png`, `diagnosis.png` and `.txt`, curves for TensorBoard and `checkpoint.pt` to
the run's folder. Ctrl-C stops at the end of a step; the same command resumes, and a finished run is not repeated.
`-m key=1,2,3` starts one run for each value, see `experiments.runs.sweeps`.
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

from experiments.configuration.run import check_numbers, trainer_settings
from experiments.configuration.students import resolve_config
from experiments.configuration.trial_selection import RESULTS
from experiments.runs.experiment import HARD, Experiment
from experiments.runs.failure_metrics import student_failure_metrics
from experiments.runs.status import first_process, mark_finished, record_status, write_json
from experiments.runs.sweeps import check_sweep_metric, finished, sweep_metric
from experiments.training import distributed as processes
from experiments.training.accuracy import summary_sets
from experiments.training.allocator import keep_freed_memory
from experiments.training.interrupts import defer_signals, exit_on_interrupt
from experiments.training.loop import progress_bar
from hard_aug import Diagnosis, diagnose
from hard_aug.utils import disk
from hard_aug.viz import PolicyHistory, draw_diagnosis, draw_policy, gallery
from hard_aug.viz.policy import MOST_DRAWN

logger = logging.getLogger(__name__)
#: Number of test images of the diagnosis.
DIAGNOSIS_IMAGES = 500
PACKAGES = ("hard_aug", "torch", "torchvision", "kornia", "numpy", "hydra-core")


def choose_device(name: str) -> torch.device:
    """Return a device.

    Args:
        name: `auto`, or any device name of torch.

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


def run(config: DictConfig, folder: Path, *, quiet: bool = False, figures: bool = True) -> dict[str, Any]:
    """Execute a run and return the contents of `metrics.json`.

    Args:
        config: the composed configuration.
        folder: of the run's results.
        quiet: no progress bar.
        figures: draw the figures of the student `hard` and diagnose it, which takes as long as a few hundred steps.
    """
    check_numbers(config)  # before the number of threads is used
    device = choose_device(config.device)
    with processes.distributed_training(trainer_settings(config), device) as accelerator:
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        if processes.world_size() > 1:
            device, quiet = accelerator.device, quiet or processes.rank() > 0
        return _run(config, folder, device, quiet=quiet, figures=figures)


def _run(config: DictConfig, folder: Path, device: torch.device, *, quiet: bool, figures: bool) -> dict[str, Any]:
    with processes.main_process_first():  # rank 0 downloads
        splits = instantiate(config.data).to(device)
    folder.mkdir(parents=True, exist_ok=True)
    with defer_signals() as stop, progress_bar(quiet=quiet) as progress:
        experiment = Experiment(config, splits, folder, progress, stop)
        for spec in experiment.specs:
            experiment.train(spec)
        failure_metrics = student_failure_metrics(experiment)
        if processes.any_process(stop.requested):  # a stop requested after the last step
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
    optional = {
        "held_out_corruptions": list(experiment.task.held_out_corruptions),
        "trials": experiment.trials(),
        "failure_metrics": failure_metrics,
    }
    metrics |= {key: value for key, value in optional.items() if value}
    if "hard" in results and figures:
        metrics["policy"] = draw_figures(experiment, folder)
        if processes.rank() == 0:
            metrics["diagnosis"] = diagnose_students(experiment, folder)
    if "hard" in results and "kd" in results:
        main = experiment.task.main
        base, top = results["kd"][main], experiment.teacher_metrics[main]
        metrics["gap_closed"] = round((results["hard"][main] - base) / (top - base), 4) if top > base else None
    if processes.rank() == 0:
        write_json(folder / RESULTS, metrics)
    return metrics


def draw_figures(experiment: Experiment, folder: Path) -> dict[str, dict[str, Any]]:
    """Draw `gallery.png` and `policy.png` of the student `hard`, and return the learned distribution.

    Args:
        experiment: with the finished student.
        folder: for the figures.
    """
    result = experiment.best_result("hard")
    student = experiment.student()
    student.load_state_dict(result["model"])
    augmenter = experiment.augmenter(student, experiment.best_spec("hard") or HARD)
    augmenter.load_state_dict(result["method"])
    shown = experiment.splits.test[slice(0, 8)].materialize()
    hard = augmenter(shown.images, shown.labels)  # collective: the processes draw together
    if processes.rank() == 0:
        gallery(hard, student, classes=experiment.splits.classes).savefig(folder / "gallery.png", dpi=130)
    history = PolicyHistory(augmenter.transform.spec)
    history.load_state_dict(result["history"])
    if processes.rank() == 0:
        draw_policy(history, title="Learned augmentation distribution during training").savefig(
            folder / "policy.png", dpi=110
        )
    last = history.last()
    for name, values in last.items():
        if name.startswith("translation"):
            values["sd_pixels"] = values["sd"] * experiment.size
    return last


def diagnose_students(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Diagnose the students before and after HARD, write figure and tables, and return the transfer gaps.

    "Before" is the student `kd`, or an untrained one in a run without `kd`.

    Args:
        experiment: with the finished students.
        folder: for `diagnosis.png` and `diagnosis.txt`.
    """
    found: list[Diagnosis] = []
    shown = experiment.splits.test[slice(0, DIAGNOSIS_IMAGES)].materialize()
    finished = [spec.row for spec in experiment.specs]
    settings = resolve_config(experiment.config, experiment.best_spec("hard") or HARD)
    for name in ("kd", "hard"):
        student = experiment.student()
        if name in finished:
            student.load_state_dict(experiment.best_result(name)["model"])
        found.append(
            diagnose(
                experiment.teacher,
                student,
                shown.images,
                instantiate(settings.transform),
                labels=shown.labels,
                seed=experiment.config.seed,
            )
        )
    before, after = found
    title = "Prediction stability under each transform: teacher, student before/after"
    draw_diagnosis(after, before=before, title=title).savefig(folder / "diagnosis.png", dpi=110)
    tables = [f"before ({'kd' if 'kd' in finished else 'untrained'})\n{before}", f"after\n{after}"]
    (folder / "diagnosis.txt").write_text("\n\n".join([*tables, after.gap_closed(before)]) + "\n")
    return {
        "missing_before": list(before.missing),
        "missing_after": list(after.missing),
        "transfer_gap_before": {row.name: round(row.transfer_gap, 4) for row in before.rows},
        "transfer_gap_after": {row.name: round(row.transfer_gap, 4) for row in after.rows},
    }


def accuracy_table(metrics: dict[str, Any]) -> Table:
    """Return the table of accuracies in %, teacher consistency in % and seconds."""
    sets = summary_sets(metrics["sets"])
    columns = ("", *sets, "trials", "teacher consistency, %", "seconds")
    table = Table(*columns, title=f"accuracy in %, seed {metrics['seed']}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in {"teacher": metrics["teacher"], **metrics["students"]}.items():
        consistency = values.get("teacher_consistency")
        table.add_row(
            f"{name} (x{values['scale']:g})" if "scale" in values else name,
            *(f"{100 * values[key]:.1f}" for key in sets),
            str(values.get("trials", "")),
            "" if consistency is None else f"{100 * consistency:.0f}",
            "cached" if values.get("cached") else f"{values['seconds']:.0f}",
        )
    return table


def print_results(metrics: dict[str, Any], folder: Path) -> None:
    """Print the results of a run.

    Args:
        metrics: the contents of `metrics.json`.
        folder: of the run.
    """
    console = Console(quiet=not first_process())
    console.print(accuracy_table(metrics))
    policy = metrics.get("policy", {})
    for name, values in list(policy.items())[:MOST_DRAWN]:
        pixels = f" = {values['sd_pixels']:.1f} px" if "sd_pixels" in values else ""
        low, high = values["range"]
        learned = f"{values['mean']:.3f} ± {values['sd']:.3f}{pixels}"
        console.print(f"  {name}: {learned} ({values['unit']}, range {low:.2f} to {high:.2f})", highlight=False)
    if len(policy) > MOST_DRAWN:
        console.print(f"  and {len(policy) - MOST_DRAWN} more parameters in metrics.json")
    if metrics.get("gap_closed") is not None:
        console.print(f"HARD closed {100 * metrics['gap_closed']:.0f} % of the gap between KD and the teacher")
    if "diagnosis" in metrics:
        found = metrics["diagnosis"]
        for when in ("before", "after"):
            gaps = ", ".join(
                f"{name} {100 * found[f'transfer_gap_{when}'][name]:.0f} %" for name in found["missing_before"]
            )
            console.print(f"transfer gap {when}: {gaps or 'none'}", highlight=False)
    figures = ", gallery.png, policy.png, diagnosis.png, diagnosis.txt" if "policy" in metrics else ""
    console.print(f"{folder}/metrics.json{figures}", soft_wrap=True, markup=False)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float:
    """Run the configuration and return its sweep metric: by default the last student's validation accuracy."""
    job = HydraConfig.get()
    folder, overrides = Path(job.runtime.output_dir), list(job.overrides.task)
    check_sweep_metric(config)
    metrics = finished(folder, config)
    if metrics is not None:
        mark_finished(folder, overrides)
        logger.info("already finished: %s", folder)
    else:
        # Progress bars of parallel runs would overwrite each other.
        quiet = job.runtime.choices["hydra/launcher"] != "basic"
        with exit_on_interrupt(folder), record_status(folder, overrides), disk.explain_disk_full(folder):
            metrics = run(config, folder, quiet=quiet)
    print_results(metrics, folder)
    return sweep_metric(metrics, config)


if __name__ == "__main__":
    main()
