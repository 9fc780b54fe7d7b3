"""Reuse the settings selected by finished runs: `trials_from=<run>` or `trials_from=[<run>,<run>]`.

Selection trains one student for each trial. Further seeds, or longer runs, that reuse the settings selected on the
validation data of an earlier run train one student each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = "metrics.json"


def best_trials(
    runs: Sequence[str], students: Sequence[str], key: str, *, select_on: str
) -> dict[str, tuple[dict[str, Any], int]]:
    """Return by student the settings with the highest mean accuracy over the runs, and the number of trials.

    Args:
        runs: folders of finished runs, each with the same trials.
        students: names of the requested students; those without trials in the runs are omitted.
        key: of the validation accuracy.
        select_on: the validation images that the runs must have used.

    Raises:
        FileNotFoundError: a run does not exist or is not finished.
        ValueError: the runs have different trials, lack a student, or selected on other images.
    """
    found = [_read(Path(run)) for run in runs]
    for run, metrics in zip(runs, found, strict=True):
        theirs = metrics["config"].get("select_on", "main")
        if theirs != select_on:
            raise ValueError(f"trials_from: {run} has select_on={theirs}, here it is {select_on}; expected the same")
    best: dict[str, tuple[dict[str, Any], int]] = {}
    for student in students:
        lacking = [run for run, metrics in zip(runs, found, strict=True) if student not in metrics["students"]]
        if lacking:
            raise ValueError(f"trials_from: {', '.join(lacking)} has no student {student}")
        trials = [metrics.get("trials", {}).get(student, []) for metrics in found]
        settings = [[one["settings"] for one in those] for those in trials]
        if any(those != settings[0] for those in settings):
            raise ValueError(f"trials_from: the runs {', '.join(runs)} have different trials for {student}")
        if settings[0]:
            means = [fmean(those[number][key] for those in trials) for number in range(len(settings[0]))]
            best[student] = settings[0][means.index(max(means))], len(means)
    return best


def _read(run: Path) -> Mapping[str, Any]:
    path = run / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"trials_from: no {path}; expected the folder of a finished run of experiments.train")
    return json.loads(path.read_text())
