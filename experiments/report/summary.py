"""The numbers of a group: mean and standard deviation over its seeds, and the differences of HARD to the other rows.

The differences are paired by seed: the same initialisation and batch order.
"""

from __future__ import annotations

from typing import Any

from experiments.report import costs, trials
from experiments.report.captions import selection_rule, task, teacher_training
from experiments.report.figures import spread
from experiments.report.runs import HELD_OUT


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one group as a dictionary, with accuracies and differences in percentage points."""
    first = runs[0]
    sets = first["sets"]
    rows = {"teacher": [run["teacher"] for run in runs]}
    rows |= {name: [run["students"][name] for run in runs] for name in first["students"]}
    best = costs.best_baselines(rows, compared_sets(first))
    summary: dict[str, Any] = {
        "data": first["config"]["data"]["name"],
        "size": first["size"],
        "sets": sets,
        "main": first["main"],
        "task": task(first["config"]),
        "teacher_training": teacher_training(first["config"]),
        "steps": first["config"]["steps"],
        "seeds": [run["seed"] for run in runs],
        "device": first["device"],
        "versions": first["versions"],
        "accuracy": {name: {s: spread([100 * r[s] for r in row]) for s in sets} for name, row in rows.items()},
        "seconds": costs.spent(rows, "seconds", 1),
        "evaluations": costs.spent(rows, "evaluations", 0),
        "teacher_consistency": {
            name: spread([100 * r["teacher_consistency"] for r in row], 1)
            for name, row in rows.items()
            if all("teacher_consistency" in r for r in row)
        },
        "best_baseline": best,
        "reached": costs.reached(rows, best),
        "config": {key: value for key, value in first["config"].items() if key != "seed"},
    }
    curves = {name: [r["curve"] for r in row] for name, row in rows.items() if all(r.get("curve") for r in row)}
    if curves:  # during training, by seed
        summary["curves"] = curves
    if HELD_OUT in sets:
        summary["held_out_corruptions"] = first["held_out_corruptions"]
    if any(r.get("trials", 1) > 1 for row in rows.values() for r in row):
        summary["trial_counts"] = {name: row[0].get("trials", 1) for name, row in rows.items() if name != "teacher"}
    views = {name: [r["pool"] for r in row] for name, row in rows.items() if all(r.get("pool") for r in row)}
    if all("failure_metrics" in run for run in runs):
        views |= {name: [run["failure_metrics"][name] for run in runs] for name in first["failure_metrics"]}
    if views:  # failure metrics, and for generated images their cost
        summary["views"] = {
            name: {key: spread([one[key] for one in row], 4) for key in row[0] if all(key in one for one in row)}
            for name, row in views.items()
        }
    if first.get("trials"):
        summary["selection_rule"] = selection_rule(first)
        summary["trials"] = {name: trials.list_trials(runs, name) for name in first["trials"]}
        summary["clean_selection"] = trials.clean_selection(runs, compared_sets(first))
    settings = trials.settings_of(runs)
    if settings:
        summary["selected_trials"] = settings
    if "kd" in rows:
        summary["gap_closed"] = _gap_closed(rows, first["main"])
    if "random_tuned" in rows:
        summary["random_tuned_scales"] = [r["scale"] for r in rows["random_tuned"]]
    if "hard" in rows:
        summary["hard_minus"] = {
            name: {s: spread([100 * (h[s] - r[s]) for h, r in zip(rows["hard"], row, strict=True)]) for s in sets}
            for name, row in rows.items()
            if name not in ("hard", "teacher")
        }
        summary |= _policies(runs)
    return summary


def compared_sets(run: dict[str, Any]) -> list[str]:
    """Return the test sets that rows are compared on: clean, main, and the mean of the held-out corruptions."""
    return list(dict.fromkeys([run["sets"][0], run["main"], *([HELD_OUT] if HELD_OUT in run["sets"] else [])]))


def _policies(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `policy`, means over the seeds of common parameters, and `policy_by_seed`, if some seeds have others."""
    by_seed = [run.get("policy", {}) for run in runs]
    common = [name for name in by_seed[0] if all(_kind(each, name) == _kind(by_seed[0], name) for each in by_seed)]
    found: dict[str, Any] = {
        "policy": {
            name: {
                key: spread([each[name][key] for each in by_seed], 4)
                for key in ("mean", "sd", "sd_pixels")
                if all(key in each[name] for each in by_seed)
            }
            | {"unit": by_seed[0][name]["unit"], "range": by_seed[0][name]["range"]}
            for name in common
        }
    }
    if any(len(each) > len(common) for each in by_seed):
        found["policy_by_seed"] = [
            {"seed": run["seed"], "values": each} for run, each in zip(runs, by_seed, strict=True) if each
        ]
    return found


def _kind(policy: dict[str, Any], name: str) -> Any:
    """Return what must be equal for a mean over seeds."""
    return (policy[name]["unit"], tuple(policy[name]["range"])) if name in policy else None


def _gap_closed(rows: costs.Rows, main: str) -> dict[str, Any]:
    """Return by student the closed fraction of the gap between KD and the teacher, in %; empty without a gap."""
    gaps = [teacher[main] - kd[main] for teacher, kd in zip(rows["teacher"], rows["kd"], strict=True)]
    if min(gaps) <= 0:
        return {}
    return {
        name: spread([100 * (r[main] - kd[main]) / gap for r, kd, gap in zip(row, rows["kd"], gaps, strict=True)], 1)
        for name, row in rows.items()
        if name not in ("teacher", "kd")
    }
