"""Settings that finished runs have chosen: `trials_from=<run>` or `trials_from=[<run>,<run>]`.

Choosing takes as many trainings as there are trials. Where further seeds, or a longer run, go on with what one run has
found best on its validation data, they take one each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

RESULTS = "metrics.json"


def chosen(
    runs: Sequence[str], students: Sequence[str], key: str, *, choose_on: str
) -> dict[str, tuple[dict[str, Any], int]]:
    """By student the settings that are best by the mean over the runs, and from how many they were chosen.

    Args:
        runs: their folders, finished, each with the same trials.
        students: those that are wanted; one of which the runs had no trials is left out.
        key: of the accuracy on validation data.
        choose_on: which validation images that has to be of.

    Raises:
        FileNotFoundError: a run that is not there or not finished.
        ValueError: runs with other trials, that lack a student altogether, or chose on other images.
    """
    found = [_read(Path(run)) for run in runs]
    for run, metrics in zip(runs, found, strict=True):
        theirs = metrics["config"].get("choose_on", "main")
        if theirs != choose_on:
            raise ValueError(f"trials_from: {run} has chosen on {theirs}, and choose_on={choose_on}; wanted the same")
    best: dict[str, tuple[dict[str, Any], int]] = {}
    for student in students:
        lacking = [run for run, metrics in zip(runs, found, strict=True) if student not in metrics["students"]]
        if lacking:
            raise ValueError(f"trials_from: {', '.join(lacking)} has no student {student}")
        trials = [metrics.get("trials", {}).get(student, []) for metrics in found]
        settings = [[one["settings"] for one in those] for those in trials]
        if any(those != settings[0] for those in settings):
            raise ValueError(f"trials_from: the runs {', '.join(runs)} have tried other settings for {student}")
        if settings[0]:
            means = [fmean(those[number][key] for those in trials) for number in range(len(settings[0]))]
            best[student] = settings[0][means.index(max(means))], len(means)
    return best


def _read(run: Path) -> Mapping[str, Any]:
    path = run / RESULTS
    if not path.is_file():
        raise FileNotFoundError(f"trials_from: no {path}; wanted the folder of a finished run of experiments.train")
    metrics: Mapping[str, Any] = json.loads(path.read_text())
    return metrics
