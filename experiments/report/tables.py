"""Tables: the mean and the standard deviation over the seeds of a group, and the differences of HARD to the others.

The differences are paired by seed: equal networks, equal batches.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

from experiments.checkpoint import flatten
from experiments.evaluation import headline


def spread(values: list[float], digits: int = 2) -> dict[str, Any]:
    """Mean, standard deviation (of the sample; None for one value) and the values."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": round(statistics.fmean(values), digits),
        "sd": None if sd is None else round(sd, digits),
        "values": [round(value, digits) for value in values],
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One group as a dictionary: accuracies and differences in points of per cent."""
    first = runs[0]
    rows = {"teacher": [run["teacher"] for run in runs]}
    rows |= {name: [run["students"][name] for run in runs] for name in first["students"]}
    summary: dict[str, Any] = {
        "data": first["config"]["data"]["name"],
        "size": first["size"],
        "sets": first["sets"],
        "main": first["main"],
        "teacher_knows": _knowledge(first["config"]),
        "steps": first["config"]["steps"],
        "seeds": [run["seed"] for run in runs],
        "device": first["device"],
        "versions": first["versions"],
        "accuracy": {name: {s: spread([100 * r[s] for r in row]) for s in first["sets"]} for name, row in rows.items()},
        "seconds": {name: spread([r["seconds"] for r in row], 1) for name, row in rows.items() if name != "teacher"},
        "teacher_keeps": {
            n: spread([100 * r["teacher_keeps"] for r in v], 1) for n, v in rows.items() if "teacher_keeps" in v[0]
        },
        "config": {key: value for key, value in first["config"].items() if key != "seed"},
    }
    if any(r.get("trials", 1) > 1 for row in rows.values() for r in row):
        summary["trial_counts"] = {name: row[0].get("trials", 1) for name, row in rows.items() if name != "teacher"}
    pools = {name: [r["pool"] for r in row] for name, row in rows.items() if "pool" in row[0]}
    if pools:  # of generated images: what they took, and how they fail
        summary["pools"] = {
            name: {key: spread([pool[key] for pool in row], 4) for key in row[0] if all(key in pool for pool in row)}
            for name, row in pools.items()
        }
    if first.get("trials"):
        summary["trials"] = {name: _trials([run["trials"][name] for run in runs]) for name in first["trials"]}
    if "kd" in rows:
        summary["gap_closed"] = _gap_closed(rows, first["main"])
    if "random_tuned" in rows:
        summary["random_tuned_scales"] = [r["scale"] for r in rows["random_tuned"]]
    if "hard" in rows:
        summary["hard_minus"] = {
            name: {
                s: spread([100 * (h[s] - r[s]) for h, r in zip(rows["hard"], row, strict=True)]) for s in first["sets"]
            }
            for name, row in rows.items()
            if name not in ("hard", "teacher")
        }
        summary["policy"] = {
            name: {
                key: spread([run["policy"][name][key] for run in runs], 4)
                for key in ("mean", "sd", "sd_pixels")
                if key in values
            }
            | {"unit": values["unit"], "range": values["range"]}
            for name, values in first.get("policy", {}).items()
        }
    return summary


def _trials(by_seed: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The trials of one student: settings, and accuracy on validation data in per cent."""
    return [
        {"settings": trial[0]["settings"], "validation": spread([100 * one["validation"] for one in trial])}
        for trial in zip(*by_seed, strict=True)
    ]


def _gap_closed(rows: dict[str, list[dict[str, Any]]], main: str) -> dict[str, Any]:
    """By student, how much of the gap between KD and the teacher it closes, in per cent; empty where there is none."""
    gaps = [teacher[main] - kd[main] for teacher, kd in zip(rows["teacher"], rows["kd"], strict=True)]
    if min(gaps) <= 0:
        return {}
    return {
        name: spread([100 * (r[main] - kd[main]) / gap for r, kd, gap in zip(row, rows["kd"], gaps, strict=True)], 1)
        for name, row in rows.items()
        if name not in ("teacher", "kd")
    }


def cells(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a group's table; columns in which nothing stands are left out."""
    sets, main = headline(summary["sets"]), summary["main"]
    head = ["", *sets, f"HARD minus it, {main}", "gap closed", "keeps", "trials"]
    rows = []
    for name, accuracy in summary["accuracy"].items():
        difference = summary.get("hard_minus", {}).get(name)
        kept = summary["teacher_keeps"].get(name)
        closed = summary.get("gap_closed", {}).get(name)
        trials = summary.get("trial_counts", {}).get(name)
        label = name
        if name == "random_tuned":
            label += " (x" + ", x".join(f"{scale:g}" for scale in summary["random_tuned_scales"]) + ")"
        rows.append(
            [
                label,
                *(text(accuracy[s]) for s in sets),
                "" if difference is None else text(difference[main], sign=True),
                "" if closed is None else f"{text(closed)} %",
                "" if kept is None else f"{kept['mean']:.0f} %",
                "" if trials is None else str(trials),
            ]
        )
    shown = [i for i in range(len(head)) if i <= len(sets) or any(row[i] for row in rows)]
    return [head[i] for i in shown], [[row[i] for i in shown] for row in rows]


def caption(summary: dict[str, Any]) -> str:
    """One line on what a group is."""
    return (
        f"{summary['data']}, {summary['size']} x {summary['size']}, teacher {summary['teacher_knows']}, "
        f"{summary['steps']} steps, "
        f"seeds {', '.join(map(str, summary['seeds']))}, {summary['device']}"
        + "".join(f"\n{key}={value}" for key, value in summary.get("differs", {}).items())
    )


def markdown(summary: dict[str, Any]) -> str:
    """A group's table as Markdown."""
    head, rows = cells(summary)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def distinguish(summaries: list[dict[str, Any]]) -> None:
    """Give each summary `differs`: the settings that are not the same in all of them."""
    flat = [flatten(summary["config"]) for summary in summaries]
    keys = sorted({key for settings in flat for key in settings})
    if len({summary["config"]["task"].get("name") for summary in summaries}) > 1:
        flat = [{"task": summary["config"]["task"].get("name", "shift")} for summary in summaries]
        keys = ["task"]  # each has its own settings, which belong to it
    differing = [key for key in keys if len({json.dumps(settings.get(key)) for settings in flat}) > 1]
    for summary, settings in zip(summaries, flat, strict=True):
        summary["differs"] = {key: settings.get(key) for key in differing}


def _knowledge(config: dict[str, Any]) -> str:
    """What the teacher was trained on."""
    if "distance" not in config["task"] or "transform" in config["task"]:
        return f"trained on {config['task']['name']}"
    shift = config["teacher"]["train_shift"]
    return f"trained on shifts of up to {shift} px" if shift else "never shown a shift"


def text(value: dict[str, Any], *, sign: bool = False) -> str:
    """Mean and deviation, to a tenth."""
    mean = f"{value['mean']:+.1f}" if sign else f"{value['mean']:.1f}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:.1f}"
