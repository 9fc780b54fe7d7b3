"""Policies x schedules x objectives, and controls: `python -m experiments.ablation [--data ...] [--seeds ...]`.

Every cell is one short run of `experiments.train` with the same networks, batches and number of steps. Parts that can't
work together are left out with the library's own reason. Finished cells are kept in the folder, so that a run that was
stopped and started again does what is missing. Writes one JSON, and tables as Markdown beside it.
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

from experiments.builders import augmenter_parts
from experiments.experiment import identity
from experiments.report import spread
from experiments.training import progress_bar
from hard_aug.compatibility import check_parts

CONFIGS = {"digits": "ablation", "fashion": "ablation_fashion"}
POLICIES = ("gaussian", "generator", "conditional", "search")
SCHEDULES = ("alternating", "joint", "threshold")
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
#: Learned policies ascend at every third call on a quarter of the batch; a search is for half of each batch.
PACE = ("augmenter.schedule.fraction=0.25", "augmenter.schedule.every=3")
SEARCH_PACE = ("augmenter.schedule.fraction=0.5", "augmenter.schedule.every=1")


@dataclass(frozen=True)
class Cell:
    """One setting: its name, and what it overrides."""

    group: str
    name: str
    overrides: tuple[str, ...]


def parts(policy: str, schedule: str, objective: str) -> tuple[str, ...]:
    """The overrides of a choice of parts."""
    search = ("invariance@augmenter.invariance=hinge",) if policy == "search" else ()
    return (
        f"policy@augmenter.policy={policy}",
        f"schedule@augmenter.schedule={schedule}",
        f"objective@augmenter.objective={objective}",
        *search,
    )


def searching(candidates: int, steps: int) -> tuple[str, ...]:
    """A search of so many candidates and steps."""
    return (
        *parts("search", "alternating", "kl"),
        *SEARCH_PACE,
        f"augmenter.policy.candidates={candidates}",
        f"augmenter.policy.steps={steps}",
    )


def cells() -> Iterator[Cell]:
    """All settings, in the order of the tables."""
    for policy in POLICIES:
        for schedule in SCHEDULES:
            for objective in OBJECTIVES:
                pace = SEARCH_PACE if policy == "search" else PACE
                chosen = (*parts(policy, schedule, objective), *pace)
                yield Cell("family", f"{policy}/{schedule}/{objective}", chosen)
    for student in ("kd", "random", "oracle"):
        yield Cell("without", student, (f"students=[{student}]",))
    yield Cell("without", "random_half", ("students=[random]", "random_scale=0.5"))
    # A forward and backward of both networks costs about three forwards, the last look is one more, and one draw alone
    # is not looked at: the pairs cost 8, 14 and 4 forwards.
    for candidates, steps in ((4, 1), (8, 0), (4, 3), (14, 0), (1, 1), (4, 0)):
        yield Cell("search", f"{candidates} draws, {steps} steps", searching(candidates, steps))
    yield Cell("conditional", "its own image", (*parts("conditional", "alternating", "kl"), *PACE))
    yield Cell("conditional", "another image", (*parts("shuffled", "alternating", "kl"), *PACE))
    for share in (0.0, 0.1, 0.25, 0.5):
        chosen = (*parts("gaussian", "joint", "kl"), *PACE, f"augmenter.uniform_floor={share}")
        yield Cell("uniform_floor", f"{share:g}", chosen)


def configuration(data: str, cell: Cell, seed: int, common: tuple[str, ...]) -> DictConfig:
    """The composed configuration of one run."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(CONFIGS[data], [*cell.overrides, *common, f"seed={seed}"])


@dataclass(frozen=True)
class Work:
    """One run to be done."""

    data: str
    cell: Cell
    seed: int
    folder: Path
    common: tuple[str, ...]


def folder_of(root: Path, data: str, cell: Cell, seed: int) -> Path:
    """Where a run keeps what it finds."""
    name = cell.name.replace("/", "-").replace(", ", "_").replace(" ", "_")
    return root / data / cell.group / name / f"seed{seed}"


def refusal(config: DictConfig) -> str | None:
    """Why the library refuses these parts together; None if it does not."""
    made = augmenter_parts(config.augmenter, channels=1)
    try:
        check_parts(**made)
    except ValueError as error:
        return str(error)
    return None


def do(work: Work) -> None:
    """Do one run, or note why it can't be done; nothing, if that is there.

    Raises:
        ValueError: a run with other settings is there.
    """
    from experiments.train import run

    config = configuration(work.data, work.cell, work.seed, work.common)
    done = work.folder / "metrics.json"
    if done.is_file():
        there = json.loads(done.read_text())["config"]
        if there != json.loads(json.dumps(identity(config))):
            raise ValueError(f"{work.folder} is of a run with other settings; choose another --folder, or remove it")
        return
    why = refusal(config) if "hard" in config.students else None
    if why is None:
        run(config, work.folder, quiet=True, pictures=False)
    else:
        work.folder.mkdir(parents=True, exist_ok=True)
        (work.folder / "refused.txt").write_text(f"{why}\n")


def gather(root: Path, data: str, seeds: list[int], wanted: list[Cell]) -> dict[str, dict[str, Any]]:
    """What the finished runs on one data set found, by group and name, with the number of seeds that are there."""
    found: dict[str, dict[str, Any]] = {}
    for cell in wanted:
        folders = [folder_of(root, data, cell, seed) for seed in seeds]
        row: dict[str, Any] | None = None
        if (folders[0] / "refused.txt").is_file():
            row = {"refused": (folders[0] / "refused.txt").read_text().strip()}
        elif finished := [folder / "metrics.json" for folder in folders if (folder / "metrics.json").is_file()]:
            runs = [json.loads(path.read_text()) for path in finished]
            students = [next(iter(run["students"].values())) for run in runs]
            row = {name: spread([100 * student[name] for student in students]) for name in runs[0]["sets"]}
            row["seeds"] = [run["seed"] for run in runs]
            row["seconds"] = spread([student["seconds"] for student in students], 1)
            if "teacher_keeps" in students[0]:
                row["teacher_keeps"] = spread([100 * student["teacher_keeps"] for student in students], 1)
        if row is not None:
            found.setdefault(cell.group, {})[cell.name] = row
    return found


def text(row: dict[str, Any] | None, name: str, seeds: int) -> str:
    """One cell of a table; of fewer seeds than wanted it says how many."""
    if row is None:
        return ""
    if "refused" in row:
        return "-"
    mean, sd = row[name]["mean"], row[name]["sd"]
    few = f" ({len(row['seeds'])} of {seeds})" if len(row["seeds"]) < seeds else ""
    return (f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}") + few


def tables(found: dict[str, dict[str, Any]], seeds: int) -> str:
    """Markdown: the family by objective, then each group of controls."""
    family = found.get("family", {})
    columns = [
        (policy, schedule)
        for policy in POLICIES
        for schedule in SCHEDULES
        if any("refused" not in family.get(f"{policy}/{schedule}/{o}", {"refused": ""}) for o in OBJECTIVES)
    ]
    lines = ["| shifted | " + " | ".join(f"{p}, {s}" for p, s in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for objective in OBJECTIVES:
        row = [text(family.get(f"{policy}/{schedule}/{objective}"), "shifted", seeds) for policy, schedule in columns]
        lines.append(f"| {objective} | " + " | ".join(row) + " |")
    for group, rows in found.items():
        if group != "family":
            columns_of = [
                name for name in next(iter(rows.values())) if name not in ("teacher_keeps", "refused", "seeds")
            ]
            lines += ["", f"| {group} | " + " | ".join(columns_of) + " |", "|---" * (len(columns_of) + 1) + "|"]
            for name, row in rows.items():
                lines.append(f"| {name} | " + " | ".join(text(row, column, seeds) for column in columns_of) + " |")
    return "\n".join(lines)


def make(todo: list[Work], processes: int) -> None:
    """Do the runs that are missing, so many at a time."""
    context = multiprocessing.get_context("spawn")
    with progress_bar() as progress, context.Pool(processes, leave_signals_alone, maxtasksperchild=20) as pool:
        bar = progress.add_task("runs", total=len(todo), note="")
        # A teacher is trained by its first run: until then a second one would train it as well.
        first = list({(w.data, w.seed): w for w in reversed(todo)}.values())
        for part in (first, [w for w in todo if w not in first]):
            for _ in pool.imap_unordered(do, part):
                progress.advance(bar)


def leave_signals_alone() -> None:
    """In a worker: the parent decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main(arguments: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description="Policies x schedules x objectives, and their controls.")
    options.add_argument("--data", nargs="+", choices=sorted(CONFIGS), default=sorted(CONFIGS))
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--only", nargs="+", default=None, help="groups of cells; all, if left out")
    options.add_argument("--folder", type=Path, default=Path("outputs/ablation"), help="where the runs are kept")
    options.add_argument("--json", type=Path, default=Path("experiments/results/ablation.json"))
    options.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2)), help="runs at a time")
    options.add_argument("--gather", action="store_true", help="make no runs; the tables of those that are there")
    options.add_argument("overrides", nargs="*", help="settings of every run, such as steps=100")
    chosen = options.parse_args(arguments)
    wanted = [cell for cell in cells() if chosen.only is None or cell.group in chosen.only]
    if not wanted:
        options.error(f"--only {' '.join(chosen.only)}: there is no such group")
    common = tuple(chosen.overrides)
    # All cells of a seed before the next seed: whatever is there after a stop can be compared.
    todo = [
        Work(data, cell, seed, folder_of(chosen.folder, data, cell, seed), common)
        for seed in chosen.seeds
        for data in chosen.data
        for cell in wanted
    ]
    if not chosen.gather:
        make(todo, chosen.processes)
    given = [word for word in (sys.argv[1:] if arguments is None else arguments) if word != "--gather"]
    command = " ".join(["python -m experiments.ablation", *given])
    pages = [f"`{command}`"]
    results: dict[str, Any] = {"command": command, "seeds": chosen.seeds}
    for data in chosen.data:
        found = gather(chosen.folder, data, chosen.seeds, wanted)
        results[data] = {"config": example(chosen.folder, data, chosen.seeds, wanted), "cells": found}
        pages.append(f"{data}, accuracy in %, seeds {', '.join(map(str, chosen.seeds))}")
        pages.append(tables(found, len(chosen.seeds)))
    print("\n" + "\n\n".join(pages[1:]))
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    page = chosen.json.with_suffix(".md")
    page.write_text("\n\n".join(pages) + "\n")
    print(f"\nwrote {chosen.json} and {page}")


def example(root: Path, data: str, seeds: list[int], wanted: list[Cell]) -> dict[str, Any]:
    """Device, versions and settings of the first finished run."""
    for cell in wanted:
        path = folder_of(root, data, cell, seeds[0]) / "metrics.json"
        if path.is_file():
            metrics = json.loads(path.read_text())
            return {key: metrics[key] for key in ("device", "versions", "config", "teacher")}
    return {}


if __name__ == "__main__":
    main()
