"""The trials of a row: which one each seed chose, and which one clean validation images alone would have chosen."""

from __future__ import annotations

from typing import Any

from experiments.report.figures import partial, spread

VALIDATION, SETS = "validation", "validation_sets"
#: Of `validation_sets`, the images as they are; its other key is the main test set's name.
CLEAN = "clean"


def chosen(trials: list[dict[str, Any]]) -> int:
    """The number of the trial that is a row's, the first of equals: as `experiments.jobs.best` has it."""
    return max(range(len(trials)), key=lambda number: trials[number][VALIDATION])


def chosen_by_clean(trials: list[dict[str, Any]]) -> int | None:
    """The same by clean validation images alone; None for runs that have not kept the accuracy on them."""
    if any(CLEAN not in trial.get(SETS, {}) for trial in trials):
        return None
    return max(range(len(trials)), key=lambda number: trials[number][SETS][CLEAN])


def settings_of(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By row that has chosen something, for each seed `seed`, `settings` and `validation` (%)."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for name, row in run["students"].items():
            settings = row.get("trial")
            if settings is None and row.get("trials", 1) > 1 and "scale" in row:
                settings = {"scale": row["scale"]}  # of random_tuned
            if settings is not None:
                one = {"seed": run["seed"], "settings": settings, VALIDATION: round(100 * row[VALIDATION], 2)}
                found.setdefault(name, []).append(one)
    return found


def listed(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The trials of one row with what they reached in per cent, what they cost, and the seeds that chose them."""
    by_seed = [run["trials"][name] for run in runs]
    choices = [
        (run["seed"], chosen(trials), chosen_by_clean(trials)) for run, trials in zip(runs, by_seed, strict=True)
    ]
    found = []
    for number, trial in enumerate(zip(*by_seed, strict=True)):
        one: dict[str, Any] = {
            "settings": trial[0]["settings"],
            VALIDATION: spread([100 * each[VALIDATION] for each in trial]),
        }
        if all(SETS in each for each in trial):
            one[SETS] = {key: spread([100 * each[SETS][key] for each in trial]) for key in trial[0][SETS]}
        for key, digits in (("evaluations", 0), ("seconds", 1)):
            cost = partial([each.get(key) for each in trial], digits)
            one |= {} if cost is None else {key: cost}
        one["chosen_by"] = [seed for seed, by_rule, _ in choices if by_rule == number]
        one["chosen_by_clean"] = [seed for seed, _, by_clean in choices if by_clean == number]
        found.append(one)
    return found


def by_clean_alone(runs: list[dict[str, Any]], sets: list[str]) -> dict[str, dict[str, Any]]:
    """Test accuracies, by row that has several trials, of the trials that clean validation images alone would choose.

    Args:
        runs: of one group; their trials are all trained, so nothing has to be run again.
        sets: the test sets, one column each.

    Returns:
        by row: `accuracy` by set, in per cent; `same`, the seeds in which it is the trial that was chosen.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in runs[0].get("trials", {}):
        by_seed = [run["trials"][name] for run in runs]
        numbers = [chosen_by_clean(trials) for trials in by_seed]
        if len(by_seed[0]) < 2 or None in numbers:
            continue
        picked = [trials[number] for trials, number in zip(by_seed, numbers, strict=True) if number is not None]
        if all(key in trial for trial in picked for key in sets):
            pairs = zip(runs, by_seed, numbers, strict=True)
            found[name] = {
                "accuracy": {key: spread([100 * trial[key] for trial in picked]) for key in sets},
                "same": [run["seed"] for run, trials, number in pairs if number == chosen(trials)],
            }
    return found
