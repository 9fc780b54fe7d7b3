"""What a group of runs is, in words."""

from __future__ import annotations

import json
from typing import Any

from experiments.checkpoint import flatten

#: What trials are chosen by, of each `choose_on`; `{main}` is the main test set.
RULES = {
    "clean": "accuracy on them as they are",
    "main": "accuracy on them changed as the test set `{main}` is",
    "sum": "mean of the accuracies on them as they are and changed as the test set `{main}` is",
}


def task(config: dict[str, Any]) -> str:
    """The name of the task, or what its class and kind say."""
    settings: dict[str, Any] = config["task"]
    if settings.get("name"):
        return str(settings["name"])
    kind = f"{settings['kind']} " if settings.get("kind") else ""
    if "_target_" in settings:
        return kind + str(settings["_target_"]).rpartition(".")[2].lower()
    return kind + ("shift" if "distance" in settings else "task without a name")


def knowledge(config: dict[str, Any]) -> str:
    """What the teacher was trained on, to stand after the word teacher."""
    settings = config["task"]
    if config.get("teacher", {}).get("steps") == 0:
        return "with the weights it came with"
    if settings.get("name"):
        return f"trained on {settings['name']}"
    if settings.get("transform"):
        names = _transforms(settings["transform"])
        return f"trained on views by {', '.join(names[:-1])}{' and ' if names[:-1] else ''}{names[-1]}"
    if "distance" not in settings:
        return "trained on images as the data gives them"
    shift = config["teacher"]["train_shift"]
    return f"trained on shifts of up to {shift} px" if shift else "never shown a shift"


def _transforms(node: dict[str, Any]) -> list[str]:
    parts = node.get("_args_")
    if parts:
        return [name for part in parts for name in _transforms(part)]
    return [str(node.get("_target_", "a transform")).rpartition(".")[2]]


def rule(run: dict[str, Any]) -> str:
    """What the trials of a run were chosen by, as a sentence."""
    held = "validation images, which are held out of the training images and are none of the test images"
    if any(row.get("trials", 1) > len(run["trials"].get(name, [])) > 0 for name, row in run["students"].items()):
        return f"Trials were chosen in other runs (trials_from), by their accuracy on {held}."
    on = run["config"].get("choose_on", "main")
    known = RULES[on].format(main=run["main"])
    return f"Trials are chosen on {held}, by the {known} (choose_on={on})."


def _share(config: dict[str, Any]) -> str:
    """How much of the training images students see, where it is not all."""
    share = config["data"].get("fraction", 1.0)
    return "" if share == 1.0 else f" ({100 * share:g} %)"


def _student(config: dict[str, Any]) -> str:
    """The student's network and its batches, with a comma after each that is known."""
    student = config.get("student", {})
    name = student.get("name") or str(student.get("_target_", "")).rpartition(".")[2]
    batch = config.get("batch_size")
    return (f"student {name}, " if name else "") + (f"batches of {batch}, " if batch else "")


def _length(summary: dict[str, Any]) -> str:
    steps = f"{summary['steps']} steps"
    if summary["config"].get("budget") == "evaluations":
        return f"as many steps as cost what {steps} on two views do"
    return steps


def heading(summary: dict[str, Any]) -> str:
    """A group in few words, to stand over it."""
    config = summary["config"]
    return f"{summary['data']}{_share(config)}, {summary['task']}, {_student(config)}{summary['steps']} steps"


def caption(summary: dict[str, Any]) -> str:
    """What a group is, what its trials were chosen by, and what distinguishes it, a line each."""
    named = "" if summary["config"]["task"].get("name") or summary["task"] == "shift" else f"task {summary['task']}, "
    lines = [
        f"{summary['data']}{_share(summary['config'])}, {summary['size']} x {summary['size']}, {named}teacher "
        f"{summary['teacher_knows']}, {_student(summary['config'])}{_length(summary)}, "
        f"seeds {', '.join(map(str, summary['seeds']))}, {summary['device']}"
    ]
    if "rule" in summary:
        lines.append(summary["rule"])
    return "\n".join([*lines, *(f"{key}={value}" for key, value in summary.get("differs", {}).items())])


def distinguish(summaries: list[dict[str, Any]]) -> None:
    """Give each summary `differs`: its task where there are several, and what is not the same in all of that task."""
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
