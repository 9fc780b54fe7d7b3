"""The figures of a group: mean and standard deviation over its seeds, and the differences of HARD to the others.

The differences are paired by seed: equal networks, equal batches.
"""

from __future__ import annotations

from typing import Any

from experiments.report import costs, trials
from experiments.report.captions import knowledge, rule, task
from experiments.report.figures import spread
from experiments.report.runs import NOVEL


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One group as a dictionary: accuracies and differences in points of per cent."""
    first = runs[0]
    sets = first["sets"]
    rows = {"teacher": [run["teacher"] for run in runs]}
    rows |= {name: [run["students"][name] for run in runs] for name in first["students"]}
    best = costs.best_baselines(rows, judged(first))
    summary: dict[str, Any] = {
        "data": first["config"]["data"]["name"],
        "size": first["size"],
        "sets": sets,
        "main": first["main"],
        "task": task(first["config"]),
        "teacher_knows": knowledge(first["config"]),
        "steps": first["config"]["steps"],
        "seeds": [run["seed"] for run in runs],
        "device": first["device"],
        "versions": first["versions"],
        "accuracy": {name: {s: spread([100 * r[s] for r in row]) for s in sets} for name, row in rows.items()},
        "seconds": costs.spent(rows, "seconds", 1),
        "evaluations": costs.spent(rows, "evaluations", 0),
        "teacher_keeps": {
            name: spread([100 * r["teacher_keeps"] for r in row], 1)
            for name, row in rows.items()
            if all("teacher_keeps" in r for r in row)
        },
        "best_baseline": best,
        "reached": costs.reached(rows, best),
        "config": {key: value for key, value in first["config"].items() if key != "seed"},
    }
    curves = {name: [r["curve"] for r in row] for name, row in rows.items() if all(r.get("curve") for r in row)}
    if curves:  # over training, by seed
        summary["curves"] = curves
    if NOVEL in sets:
        summary["novel_sets"] = first["novel_sets"]
    if any(r.get("trials", 1) > 1 for row in rows.values() for r in row):
        summary["trial_counts"] = {name: row[0].get("trials", 1) for name, row in rows.items() if name != "teacher"}
    views = {name: [r["pool"] for r in row] for name, row in rows.items() if all(r.get("pool") for r in row)}
    if all("detectors" in run for run in runs):
        views |= {name: [run["detectors"][name] for run in runs] for name in first["detectors"]}
    if views:  # how they fail, and of generated images what they took
        summary["views"] = {
            name: {key: spread([one[key] for one in row], 4) for key in row[0] if all(key in one for one in row)}
            for name, row in views.items()
        }
    if first.get("trials"):
        summary["rule"] = rule(first)
        summary["trials"] = {name: trials.listed(runs, name) for name in first["trials"]}
        summary["chosen_by_clean"] = trials.by_clean_alone(runs, judged(first))
    settings = trials.settings_of(runs)
    if settings:
        summary["chosen"] = settings
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


def judged(run: dict[str, Any]) -> list[str]:
    """The test sets that baselines are compared on: the images as they are, the main one, and the mean of new ones."""
    return list(dict.fromkeys([run["sets"][0], run["main"], *([NOVEL] if NOVEL in run["sets"] else [])]))


def _policies(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """`policy`: means over the seeds of what all have alike; `policy_by_seed`: each seed's, where some have more."""
    by_seed = [run.get("policy", {}) for run in runs]
    shared = [name for name in by_seed[0] if all(_kind(each, name) == _kind(by_seed[0], name) for each in by_seed)]
    found: dict[str, Any] = {
        "policy": {
            name: {
                key: spread([each[name][key] for each in by_seed], 4)
                for key in ("mean", "sd", "sd_pixels")
                if all(key in each[name] for each in by_seed)
            }
            | {"unit": by_seed[0][name]["unit"], "range": by_seed[0][name]["range"]}
            for name in shared
        }
    }
    if any(len(each) > len(shared) for each in by_seed):
        found["policy_by_seed"] = [
            {"seed": run["seed"], "values": each} for run, each in zip(runs, by_seed, strict=True) if each
        ]
    return found


def _kind(policy: dict[str, Any], name: str) -> Any:
    """What has to be the same for a mean over seeds."""
    return (policy[name]["unit"], tuple(policy[name]["range"])) if name in policy else None


def _gap_closed(rows: costs.Rows, main: str) -> dict[str, Any]:
    """By student, how much of the gap between KD and the teacher it closes, in per cent; empty where there is none."""
    gaps = [teacher[main] - kd[main] for teacher, kd in zip(rows["teacher"], rows["kd"], strict=True)]
    if min(gaps) <= 0:
        return {}
    return {
        name: spread([100 * (r[main] - kd[main]) / gap for r, kd, gap in zip(row, rows["kd"], gaps, strict=True)], 1)
        for name, row in rows.items()
        if name not in ("teacher", "kd")
    }
