"""Ablation of policies x schedules x objectives, with controls: `python -m experiments.ablation [options]`.

Every cell is one short run of `experiments.train` with the same networks, batches and number of steps. Unsupported
combinations are skipped with the library's own reason. Finished cells are stored in the folder, so that the same
command resumes an interrupted ablation. Writes one JSON file, and tables as Markdown beside it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from experiments.configuration.run import run_identity
from experiments.methods.factory import augmenter_parts
from experiments.report import spread
from experiments.training.loop import progress_bar
from hard_aug.compatibility import check_parts

CONFIGS = {"digits": "ablation", "fashion": "ablation_fashion"}
POLICIES = ("gaussian", "generator", "conditional", "search")
SCHEDULES = ("alternating", "threshold")
OBJECTIVES = (
    "kl",
    "reverse_kl",
    "jensen_shannon",
    "logit_mse",
    "decision_masked_kl",
    "response_change",
    "confidence_gap",
    "confidence_ratio",
    "confidence_margin",
)
#: Learned policies are updated at every third call on a quarter of the batch; a search runs on half of each batch.
SCHEDULE_OVERRIDES = ("augmenter.schedule.fraction=0.25", "augmenter.schedule.every=3")
SEARCH_OVERRIDES = ("augmenter.schedule.fraction=0.5", "augmenter.schedule.every=1")
#: File with the reason why a cell is unsupported.
UNSUPPORTED = "unsupported.txt"


@dataclass(frozen=True)
class Cell:
    """One setting of the ablation.

    Attributes:
        group: of the tables.
        name: within the group.
        overrides: of the configuration.
    """

    group: str
    name: str
    overrides: tuple[str, ...]


def parts(policy: str, schedule: str, objective: str) -> tuple[str, ...]:
    """Return the overrides that select the components.

    Args:
        policy: option of the config group.
        schedule: option of the config group.
        objective: option of the config group.
    """
    search = ("invariance@augmenter.invariance=hinge",) if policy == "search" else ()
    return (
        f"policy@augmenter.policy={policy}",
        f"schedule@augmenter.schedule={schedule}",
        f"objective@augmenter.objective={objective}",
        *search,
    )


def searching(candidates: int, steps: int) -> tuple[str, ...]:
    """Return the overrides of a search.

    Args:
        candidates: draws for each image.
        steps: gradient ascent steps on the best one.
    """
    return (
        *parts("search", "alternating", "kl"),
        *SEARCH_OVERRIDES,
        f"augmenter.policy.candidates={candidates}",
        f"augmenter.policy.steps={steps}",
    )


def cells() -> Iterator[Cell]:
    """Yield all cells in the order of the tables."""
    for policy in POLICIES:
        for schedule in SCHEDULES:
            for objective in OBJECTIVES:
                pace = SEARCH_OVERRIDES if policy == "search" else SCHEDULE_OVERRIDES
                chosen = (*parts(policy, schedule, objective), *pace)
                yield Cell("combinations", f"{policy}/{schedule}/{objective}", chosen)
    for student in ("kd", "random", "oracle"):
        yield Cell("controls", student, (f"students=[{student}]",))
    yield Cell("controls", "random_half", ("students=[random]", "random_scale=0.5"))
    # Forward and backward of both networks cost about three forwards, the final evaluation is one more, and a single
    # draw is not evaluated: the pairs cost 8, 14 and 4 forwards.
    for candidates, steps in ((4, 1), (8, 0), (4, 3), (14, 0), (1, 1), (4, 0)):
        yield Cell("search", f"{candidates} draws, {steps} steps", searching(candidates, steps))
    # "combinations" has the settings that these are compared with: conditional/ and gaussian/alternating/kl.
    yield Cell("conditional", "another image", (*parts("shuffled", "alternating", "kl"), *SCHEDULE_OVERRIDES))
    for fraction in (0.1, 0.25, 0.5):
        floor = f"augmenter.min_uniform_fraction={fraction}"
        chosen = (*parts("gaussian", "alternating", "kl"), *SCHEDULE_OVERRIDES, floor)
        yield Cell("min_uniform_fraction", f"{fraction:g}", chosen)


def configuration(data: str, cell: Cell, seed: int, common: tuple[str, ...]) -> DictConfig:
    """Return the composed configuration of one run.

    Args:
        data: key of `CONFIGS`.
        cell: the setting.
        seed: of the run.
        common: overrides of every run.
    """
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(CONFIGS[data], [*cell.overrides, *common, f"seed={seed}"])


@dataclass(frozen=True)
class CellRun:
    """One run of the ablation.

    Attributes:
        data: key of `CONFIGS`.
        cell: the setting.
        seed: of the run.
        folder: for its results.
        common: overrides of every run.
    """

    data: str
    cell: Cell
    seed: int
    folder: Path
    common: tuple[str, ...]


def folder_of(root: Path, data: str, cell: Cell, seed: int) -> Path:
    """Return the folder of a run.

    Args:
        root: of the ablation.
        data: key of `CONFIGS`.
        cell: the setting.
        seed: of the run.
    """
    name = cell.name.replace("/", "-").replace(", ", "_").replace(" ", "_")
    return root / data / cell.group / name / f"seed{seed}"


def unsupported_reason(config: DictConfig) -> str | None:
    """Return the library's reason why these components can't be combined, or None if they can."""
    components = augmenter_parts(config.augmenter, channels=1)
    try:
        check_parts(**components)
    except ValueError as error:
        return str(error)
    return None


def run_cell(work: CellRun) -> None:
    """Execute one run, or write why it is unsupported; a no-op if its results exist.

    Args:
        work: the run.

    Raises:
        ValueError: the folder holds results of other settings.
    """
    from experiments.train import run

    config = configuration(work.data, work.cell, work.seed, work.common)
    results = work.folder / "metrics.json"
    if results.is_file():
        there = json.loads(results.read_text())["config"]
        if there != json.loads(json.dumps(run_identity(config))):
            raise ValueError(f"{work.folder} holds a run with other settings; use another --folder, or remove it")
        return
    reason = unsupported_reason(config) if "hard" in config.students else None
    if reason is None:
        run(config, work.folder, quiet=True, figures=False)
    else:
        work.folder.mkdir(parents=True, exist_ok=True)
        (work.folder / UNSUPPORTED).write_text(f"{reason}\n")


def gather(root: Path, data: str, seeds: list[int], expected: list[Cell]) -> dict[str, dict[str, Any]]:
    """Return the results of the finished runs on one data set by group and name, with the seeds that are finished.

    Args:
        root: of the ablation.
        data: key of `CONFIGS`.
        seeds: requested seeds.
        expected: requested cells.
    """
    found: dict[str, dict[str, Any]] = {}
    for cell in expected:
        folders = [folder_of(root, data, cell, seed) for seed in seeds]
        row: dict[str, Any] | None = None
        if (folders[0] / UNSUPPORTED).is_file():
            row = {"unsupported": (folders[0] / UNSUPPORTED).read_text().strip()}
        elif finished := [folder / "metrics.json" for folder in folders if (folder / "metrics.json").is_file()]:
            runs = [json.loads(path.read_text()) for path in finished]
            students = [next(iter(run["students"].values())) for run in runs]
            row = {name: spread([100 * student[name] for student in students]) for name in runs[0]["sets"]}
            row["seeds"] = [run["seed"] for run in runs]
            row["seconds"] = spread([student["seconds"] for student in students], 1)
            if "teacher_consistency" in students[0]:
                row["teacher_consistency"] = spread([100 * student["teacher_consistency"] for student in students], 1)
        if row is not None:
            found.setdefault(cell.group, {})[cell.name] = row
    return found


def format_cell(row: dict[str, Any] | None, name: str, seeds: int) -> str:
    """Return the text of one table cell, with the number of finished seeds if some are missing.

    Args:
        row: the results of a cell; None: none.
        name: of the test set, or another column.
        seeds: number of requested seeds.
    """
    if row is None:
        return ""
    if "unsupported" in row:
        return "-"
    mean, std = row[name]["mean"], row[name]["sd"]
    missing = f" ({len(row['seeds'])} of {seeds})" if len(row["seeds"]) < seeds else ""
    return (f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}") + missing


def tables(found: dict[str, dict[str, Any]], seeds: int) -> str:
    """Return Markdown tables: the combinations by objective, then each group of controls.

    Args:
        found: the results of `gather`.
        seeds: number of requested seeds.
    """
    combinations = found.get("combinations", {})
    schedules = dict.fromkeys([*SCHEDULES, *(name.split("/")[1] for name in combinations)])
    columns = [
        (policy, schedule)
        for policy in POLICIES
        for schedule in sorted(schedules)
        if any(
            "unsupported" not in combinations.get(f"{policy}/{schedule}/{o}", {"unsupported": ""}) for o in OBJECTIVES
        )
    ]
    lines = ["| shifted | " + " | ".join(f"{p}, {s}" for p, s in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for objective in OBJECTIVES:
        row = [
            format_cell(combinations.get(f"{policy}/{schedule}/{objective}"), "shifted", seeds)
            for policy, schedule in columns
        ]
        lines.append(f"| {objective} | " + " | ".join(row) + " |")
    for group, rows in found.items():
        if group != "combinations":
            columns_of = [
                name
                for name in next(iter(rows.values()))
                if name not in ("teacher_consistency", "unsupported", "seeds")
            ]
            lines += ["", f"| {group} | " + " | ".join(columns_of) + " |", "|---" * (len(columns_of) + 1) + "|"]
            lines += [
                f"| {name} | " + " | ".join(format_cell(cell, column, seeds) for column in columns_of) + " |"
                for name, cell in rows.items()
            ]
    return "\n".join(lines)


def page(results: dict[str, Any]) -> str:
    """Return the Markdown page of the ablation's JSON.

    Args:
        results: `command`, `seeds`, and by data set its `cells`; `note`, if given, is printed below the command.
    """
    seeds = results["seeds"]
    parts_of_page = [f"`{results['command']}`", *([results["note"]] if results.get("note") else [])]
    for data in CONFIGS:
        if data in results:
            parts_of_page.append(f"{data}, accuracy in %, seeds {', '.join(map(str, seeds))}")
            parts_of_page.append(tables(results[data]["cells"], len(seeds)))
    return "\n\n".join(parts_of_page) + "\n"


def run_all(todo: list[CellRun], processes: int) -> None:
    """Execute the missing runs.

    Args:
        todo: the runs.
        processes: number of runs at a time; 1: in this process.
    """
    if processes == 1:
        for work in todo:
            run_cell(work)
        return
    context = multiprocessing.get_context("spawn")
    with progress_bar() as progress, context.Pool(processes, ignore_interrupts, maxtasksperchild=20) as pool:
        bar = progress.add_task("runs", total=len(todo), note="")
        # A teacher is trained by its first run: runs that share it start afterwards, to not train it again.
        first = list({(w.data, w.seed): w for w in reversed(todo)}.values())
        for part in (first, [w for w in todo if w not in first]):
            for _ in pool.imap_unordered(run_cell, part):
                progress.advance(bar)


def ignore_interrupts() -> None:
    """Ignore SIGINT in a worker process: the parent decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablation", description="Policies x schedules x objectives, and their controls."
    )
    parser.add_argument(
        "--data", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS), help="data sets (default: all)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="random seeds (default: 0 1 2)")
    parser.add_argument("--only", nargs="+", default=None, help="groups of cells (default: all)")
    parser.add_argument(
        "--folder", type=Path, default=Path("outputs/ablation"), help="folder of the runs (default: outputs/ablation)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("experiments/results/ablation.json"),
        help="result file; the tables are written beside it as .md (default: experiments/results/ablation.json)",
    )
    parser.add_argument(
        "--processes", type=int, default=max(1, (os.cpu_count() or 2)), help="runs at a time (default: all CPUs)"
    )
    parser.add_argument("--gather", action="store_true", help="only make the tables of the finished runs")
    parser.add_argument("overrides", nargs="*", help="overrides of every run, such as steps=100")
    options = parser.parse_args(arguments)
    expected = [cell for cell in cells() if options.only is None or cell.group in options.only]
    if not expected:
        groups = ", ".join(dict.fromkeys(cell.group for cell in cells()))
        parser.error(f"--only {' '.join(options.only)}: expected some of {groups}")
    common = tuple(options.overrides)
    # All cells of a seed before the next seed: the results of an interrupted ablation can be compared.
    todo = [
        CellRun(data, cell, seed, folder_of(options.folder, data, cell, seed), common)
        for seed in options.seeds
        for data in options.data
        for cell in expected
    ]
    if not options.gather:
        run_all(todo, options.processes)
    given = [word for word in (sys.argv[1:] if arguments is None else arguments) if word != "--gather"]
    command = " ".join(["python -m experiments.ablation", *given])
    results: dict[str, Any] = {"command": command, "seeds": options.seeds}
    for data in options.data:
        found = gather(options.folder, data, options.seeds, expected)
        results[data] = {"config": first_config(options.folder, data, options.seeds, expected), "cells": found}
    markdown = page(results)
    print("\n" + markdown.partition("\n\n")[2].rstrip())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    path = options.json.with_suffix(".md")
    path.write_text(markdown)
    print(f"\nwrote {options.json} and {path}")


def first_config(root: Path, data: str, seeds: list[int], expected: list[Cell]) -> dict[str, Any]:
    """Return device, versions and settings of the first finished run.

    Args:
        root: of the ablation.
        data: key of `CONFIGS`.
        seeds: requested seeds.
        expected: requested cells.
    """
    for cell in expected:
        path = folder_of(root, data, cell, seeds[0]) / "metrics.json"
        if path.is_file():
            metrics = json.loads(path.read_text())
            return {key: metrics[key] for key in ("device", "versions", "config", "teacher")}
    return {}


if __name__ == "__main__":
    main()
