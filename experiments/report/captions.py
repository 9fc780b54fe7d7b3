"""Captions: descriptions of a group of runs in words."""

from __future__ import annotations

import json
from typing import Any

from hard_aug.utils.hashing import flatten

#: The accuracy that trials are selected by, for each `select_on`; `{main}` is the main test set.
RULES = {
    "clean": "accuracy on clean images",
    "main": "accuracy on images changed like the test set `{main}`",
    "sum": "mean of the accuracies on clean images and on images changed like the test set `{main}`",
}
#: Note on groups that were measured with a schedule that the library no longer has.
JOINT = "HARD was measured with the schedule Joint."


def task(config: dict[str, Any]) -> str:
    """Return the name of the task, or one derived from its class and kind."""
    settings: dict[str, Any] = config["task"]
    if settings.get("name"):
        return str(settings["name"])
    kind = f"{settings['kind']} " if settings.get("kind") else ""
    if "_target_" in settings:
        return kind + str(settings["_target_"]).rpartition(".")[2].lower()
    return kind + ("shift" if "distance" in settings else "unnamed task")


def teacher_training(config: dict[str, Any]) -> str:
    """Return a description of the teacher's training, to follow the word teacher."""
    settings = config["task"]
    if config.get("teacher", {}).get("steps") == 0:
        return "pretrained"
    if settings.get("name"):
        name = settings["name"]
        return f"trained on augmented images ({name})" if "transform" in settings else f"trained on {name}"
    if settings.get("transform"):
        names = _transforms(settings["transform"])
        joined = f"{', '.join(names[:-1])}{' and ' if names[:-1] else ''}{names[-1]}"
        return f"trained on augmented images ({joined})"
    if "distance" not in settings:
        return "trained on images without augmentation"
    shift = config["teacher"]["train_shift"]
    return f"trained on shifts of up to {shift} px" if shift else "trained without shifts"


def _transforms(node: dict[str, Any]) -> list[str]:
    parts = node.get("_args_")
    if parts:
        return [name for part in parts for name in _transforms(part)]
    return [str(node.get("_target_", "a transform")).rpartition(".")[2]]


def selection_rule(run: dict[str, Any]) -> str:
    """Return a sentence on how the trials of a run were selected."""
    held_out = "validation images, held out of the training images and disjoint from the test images"
    if any(row.get("trials", 1) > len(run["trials"].get(name, [])) > 0 for name, row in run["students"].items()):
        return f"Trials were selected in other runs (trials_from), by their accuracy on {held_out}."
    on = run["config"].get("select_on", "main")
    return f"Trials are selected on {held_out}, by the {RULES[on].format(main=run['main'])} (select_on={on})."


def _fraction(config: dict[str, Any]) -> str:
    """Return the students' percentage of the training images, empty if it is all of them."""
    fraction = config["data"].get("fraction", 1.0)
    return "" if fraction == 1.0 else f" ({100 * fraction:g} %)"


def _student(config: dict[str, Any]) -> str:
    """Return the student's network and batch size as far as they are known, each followed by a comma."""
    student = config.get("student", {})
    name = student.get("name") or str(student.get("_target_", "")).rpartition(".")[2]
    batch = config.get("batch_size")
    return (f"student {name}, " if name else "") + (f"batch size {batch}, " if batch else "")


def _length(summary: dict[str, Any]) -> str:
    steps = f"{summary['steps']} steps"
    return f"network evaluations of {steps} on two views" if summary["config"].get("budget") == "nfe" else steps


def _uses_joint(summary: dict[str, Any]) -> bool:
    schedule = (summary["config"].get("augmenter") or {}).get("schedule") or {}
    return "hard" in summary["accuracy"] and str(schedule.get("_target_", "")).endswith(".Joint")


def heading(summary: dict[str, Any]) -> str:
    """Return a short title of a group."""
    config = summary["config"]
    return f"{summary['data']}{_fraction(config)}, {summary['task']}, {_student(config)}{summary['steps']} steps"


def caption(summary: dict[str, Any]) -> str:
    """Return the description of a group, how its trials were selected, and what distinguishes it, a line each."""
    named = "" if summary["config"]["task"].get("name") or summary["task"] == "shift" else f"task {summary['task']}, "
    lines = [
        f"{summary['data']}{_fraction(summary['config'])}, {summary['size']} x {summary['size']} pixels, {named}"
        f"teacher {summary['teacher_training']}, {_student(summary['config'])}{_length(summary)}, "
        f"seeds {', '.join(map(str, summary['seeds']))}, {summary['device']}. Accuracy in %."
    ]
    if "selection_rule" in summary:
        lines.append(summary["selection_rule"])
    if _uses_joint(summary):
        lines.append(JOINT)
    return "\n".join([*lines, *(f"{key}={value}" for key, value in summary.get("differs", {}).items())])


def distinguish(summaries: list[dict[str, Any]]) -> None:
    """Add to each summary `differs`: its task if there are several, and the settings that differ within the task."""
    several = len({summary["task"] for summary in summaries}) > 1
    for summary in summaries:
        summary["differs"] = {"task": summary["task"]} if several else {}
    for name in {summary["task"] for summary in summaries}:
        those = [summary for summary in summaries if summary["task"] == name]
        flat = [flatten(summary["config"]) for summary in those]
        keys = sorted({key for settings in flat for key in settings})
        differing = [key for key in keys if len({json.dumps(settings.get(key)) for settings in flat}) > 1]
        for summary, settings in zip(those, flat, strict=True):
            summary["differs"] |= {key: settings.get(key) for key in differing}
