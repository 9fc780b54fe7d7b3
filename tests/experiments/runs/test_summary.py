"""The table that a run prints."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from experiments.runs.summary import summary_table

RECORD: dict[str, Any] = {
    "method": "hard",
    "settings": ["temperature=4.0"],
    "seed": 3,
    "sets": ["clean", "corrupted", "corrupted/fog"],
    "student": {"accuracy": {"clean": 0.9, "corrupted": 0.756, "corrupted/fog": 0.5}, "seconds": 61.4},
    "teacher": {"accuracy": {"clean": 0.95, "corrupted": 1.0, "corrupted/fog": 1.0}, "seconds": 12.6, "cached": False},
}


def rows(record: dict[str, Any]) -> tuple[str, list[list[str]]]:
    table = summary_table(record)
    return str(table.title), [list(column.cells) for column in table.columns]  # type: ignore[misc]  # text


def test_the_table_has_the_main_sets_in_percent() -> None:
    title, columns = rows(RECORD)
    assert title == "accuracy in %, seed 3, temperature=4.0"
    assert columns == [["teacher", "hard"], ["95.0", "90.0"], ["100.0", "75.6"], ["", ""], ["13", "61"]]


def test_the_table_shows_a_cached_teacher_and_the_consistency() -> None:
    teacher, student = RECORD["teacher"] | {"cached": True}, RECORD["student"] | {"teacher_consistency": 0.875}
    title, columns = rows(RECORD | {"settings": [], "teacher": teacher, "student": student})
    assert title == "accuracy in %, seed 3"
    assert columns[3:] == [["", "88"], ["cached", "61"]]


def test_brackets_are_no_markup() -> None:
    """Of rich, which leaves `[x]` out, and raises for `[/x]`."""
    names = ["clean", "[bold] <&>"]
    accuracy = dict.fromkeys(names, 0.5)
    odd = {"method": "[red]x", "settings": ["data.classes=[a,b]", "task.name='[/x]'"], "sets": names}
    parts = {key: RECORD[key] | {"accuracy": accuracy} for key in ("student", "teacher")}
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(summary_table(RECORD | odd | parts))
    text = console.export_text()
    for shown in ("[red]x", "[bold] <&>", "data.classes=[a,b]", "task.name='[/x]'"):
        assert shown in text
