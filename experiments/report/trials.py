"""The trials of a row: the selected one of each seed, and the one that clean validation images alone would select."""

from __future__ import annotations

from typing import Any

from experiments.report.figures import partial, spread

VALIDATION, SETS = "validation", "validation_sets"
#: The key of `validation_sets` for clean images; the other key is the main test set's name.
CLEAN = "clean"


def selected(trials: list[dict[str, Any]]) -> int:
    """Return the index of the trial with the highest validation accuracy, the first in case of ties."""
    return max(range(len(trials)), key=lambda number: trials[number][VALIDATION])


def selected_by_clean(trials: list[dict[str, Any]]) -> int | None:
    """Return the index of the best trial on clean validation images; None if that accuracy was not recorded."""
    if any(CLEAN not in trial.get(SETS, {}) for trial in trials):
        return None
    return max(range(len(trials)), key=lambda number: trials[number][SETS][CLEAN])


def settings_of(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return by row with several trials, for each seed, `seed`, `settings` and `validation` (%)."""
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


def list_trials(runs: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the trials of one row with their accuracies in %, their costs, and the seeds that select them.

    Args:
        runs: of one group.
        name: of the row.
    """
    by_seed = [run["trials"][name] for run in runs]
    choices = [
        (run["seed"], selected(trials), selected_by_clean(trials)) for run, trials in zip(runs, by_seed, strict=True)
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
        one["selected_by"] = [seed for seed, by_rule, _ in choices if by_rule == number]
        one["selected_by_clean"] = [seed for seed, _, by_clean in choices if by_clean == number]
        found.append(one)
    return found


def clean_selection(runs: list[dict[str, Any]], sets: list[str]) -> dict[str, dict[str, Any]]:
    """Return, for rows with several trials, the test accuracies of the trials that clean images alone would select.

    Args:
        runs: of one group; all their trials are trained, so nothing has to be run again.
        sets: test sets.

    Returns:
        by row: `accuracy` by test set, in %; `same`, the seeds in which the same trial is selected.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in runs[0].get("trials", {}):
        by_seed = [run["trials"][name] for run in runs]
        numbers = [selected_by_clean(trials) for trials in by_seed]
        if len(by_seed[0]) < 2 or None in numbers:
            continue
        picked = [trials[number] for trials, number in zip(by_seed, numbers, strict=True) if number is not None]
        if all(key in trial for trial in picked for key in sets):
            pairs = zip(runs, by_seed, numbers, strict=True)
            found[name] = {
                "accuracy": {key: spread([100 * trial[key] for trial in picked]) for key in sets},
                "same": [run["seed"] for run, trials, number in pairs if number == selected(trials)],
            }
    return found
