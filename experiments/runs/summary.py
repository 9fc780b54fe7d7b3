"""The table that a run prints at its end."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.training.accuracy import summary_sets

#: With more test sets, the table only has the first one and the main one; the record has all.
MOST_SETS = 4


def summary_table(record: dict[str, Any]) -> Table:
    """Return the table of accuracies in %, teacher consistency in % and seconds."""
    student, teacher = record["student"], record["teacher"]
    sets = summary_sets(record["sets"])
    if len(sets) > MOST_SETS:
        sets = list(dict.fromkeys((sets[0], record["main"])))
    title = escape(", ".join([f"accuracy in %, seed {record['seed']}", *record["settings"]]))
    table = Table("", *map(escape, sets), "teacher consistency, %", "seconds", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    consistency = student.get("teacher_consistency")
    cells = (
        ("teacher", teacher, "", "cached" if teacher["cached"] else f"{teacher['seconds']:.0f}"),
        (
            record["method"],
            student,
            "" if consistency is None else f"{100 * consistency:.0f}",
            f"{student['seconds']:.0f}",
        ),
    )
    for name, values, consistent, seconds in cells:
        accuracies = (values["accuracy"].get(key) for key in sets)
        table.add_row(escape(name), *("" if a is None else f"{100 * a:.1f}" for a in accuracies), consistent, seconds)
    return table
