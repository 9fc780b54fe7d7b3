"""Titles and captions: groups of runs in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report.groups import Group
from experiments.report.records import distinguish

#: What trials are selected by, for each `select_on`.
RULES = {
    "clean": "clean images",
    "main": "images like those of {0}",
    "sum": "clean images and images like those of {0}",
}


def titles(groups: Sequence[Group]) -> list[str]:
    """Return a short title for each group; equal ones are followed by the settings in which the groups differ."""
    found = []
    for group in groups:
        config = group.config
        parts = (_data(config), task(config), _name(config.get("student")), f"{config.get('steps')} steps")
        found.append(", ".join(filter(None, parts)))
    return _told_apart(found, groups)


def short_titles(groups: Sequence[Group]) -> list[str]:
    """Return the main test set of each group, after the first word of the data set's name if it is not the usual one.

    The usual one is that of the most groups. Equal titles are followed by the settings in which the groups differ.
    """
    data = [data_of(group.config) for group in groups]
    usual = max(data, key=data.count, default="")
    found = []
    for group, name in zip(groups, data, strict=True):
        words = ([] if name == usual else [name.partition("_")[0]]) + [group.main.replace("_", " ")]
        found.append(" ".join(words))
    return _told_apart(found, groups)


def _told_apart(found: list[str], groups: Sequence[Group]) -> list[str]:
    """Return titles, equal ones followed by the settings in which the groups differ."""
    found = list(found)
    for title in set(found):
        same = [number for number, each in enumerate(found) if each == title]
        settings = distinguish({str(number): groups[number].config for number in same})
        for number in same:
            found[number] = ", ".join(dict.fromkeys([title, *settings[str(number)]]))
    return found


def task(config: dict[str, Any]) -> str:
    """Return the task's name, or one derived from its class."""
    settings = config.get("task") or {}
    return str(settings.get("name") or " ".join(filter(None, (settings.get("kind"), _name(settings).lower()))))


def teacher(config: dict[str, Any]) -> str:
    """Return how the teacher was trained, to follow the word teacher."""
    settings, training = config.get("task") or {}, config.get("teacher") or {}
    if training.get("steps") == 0:
        return "pretrained"
    if settings.get("transform"):
        return f"trained on augmented images ({settings.get('name') or ', '.join(_names(settings['transform']))})"
    if settings.get("name"):
        return f"trained on {settings['name']}"
    is_shift = str(settings.get("_target_", "Shift")).endswith("Shift")  # the other tasks have no such views
    shift = training.get("train_shift") if is_shift else 0
    return f"trained on shifts of up to {shift} px" if shift else "trained without augmentation"


def caption(group: Group) -> str:
    """Return the caption of a group's first table."""
    config, size, seeds = group.config, group.first.get("size"), sorted(group.frame.seed.unique())
    steps = f"{config.get('steps')} steps"
    batch_size = group.first["student"].get("batch_size", config.get("batch_size"))
    described = [
        _data(config) + (f", {size} x {size} pixels" if size else ""),
        f"task {task(config)}",
        f"teacher {teacher(config)}",
        f"student {_name(config.get('student'))}" if _name(config.get("student")) else "",
        f"batch size {batch_size}" if batch_size else "",
        f"as many network evaluations as {steps} on two views" if config.get("budget") == "nfe" else steps,
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        group.joined("device"),
    ]
    text = "; ".join(filter(None, described)) + ". Accuracy in %, mean ± standard deviation over seeds."
    text += f" {selection(group)}" if group.trials.tried.max() > 1 else ""
    return f"{text} {group.joined('note')}".strip()


def selection(group: Group) -> str:
    """Return how trials are selected."""
    return (
        f"Trials are selected by the validation accuracy on {RULES[group.select_on].format(group.main)} "
        f"(select_on={group.select_on}), mean over the seeds that all trials of a row share."
    )


def data_of(config: dict[str, Any]) -> str:
    """Return the name of the data set."""
    return str((config.get("data") or {}).get("name", ""))


def _data(config: dict[str, Any]) -> str:
    fraction = (config.get("data") or {}).get("fraction") or 1.0
    return data_of(config) + ("" if fraction == 1.0 else f" ({100 * fraction:g} % of the training images)")


def _name(node: Any) -> str:
    return str((node or {}).get("name") or str((node or {}).get("_target_", "")).rpartition(".")[2])


def _names(node: dict[str, Any]) -> list[str]:
    return [name for part in node["_args_"] for name in _names(part)] if node.get("_args_") else [_name(node)]
