"""The tables of a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.report.captions import caption
from experiments.report.costs import HARD
from experiments.report.figures import millions, precise, text, whole
from experiments.training.accuracy import summary_sets

#: With more test sets than this, the first table shows only those that rows are compared on; another one shows all.
WIDE = 6
NEVER = "never"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: the caption, complete in itself.
        head: column headers.
        rows: the cells.
        folded: collapsed by default on the HTML page.
        words: indices of the columns with text instead of numbers, besides the first.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    folded: bool = False
    words: tuple[int, ...] = ()

    def markdown(self) -> str:
        """Return the table as Markdown, inside HTML `details` if folded."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        cells = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        if self.folded:
            return f"<details><summary>{self.title}</summary>\n\n{cells}\n\n</details>"
        title = self.title.replace("\n", "\\\n")  # a backslash breaks the line
        return f"{title}\n\n{cells}"


def tables(summary: dict[str, Any]) -> list[Table]:
    """Return all non-empty tables of a group."""
    measured = [_best(summary), _costs(summary), *_reached(summary), _views(summary), _sets(summary)]
    made = [Table(caption(summary), *cells(summary)), *measured, _trials(summary), _clean_selection(summary)]
    return [table for table in made if table is not None]


def shown_sets(summary: dict[str, Any]) -> list[str]:
    """Return the test sets of the first table: without subsets, and if there are many only the compared ones."""
    sets = summary_sets(summary["sets"])
    compared = sets if len(sets) <= WIDE else (sets[0], summary["main"], *summary["best_baseline"])
    return [name for name in sets if name in compared]


def cells(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a group's first table, without empty columns."""
    sets, main = shown_sets(summary), summary["main"]
    compared = list(summary["best_baseline"]) or [main]
    head = ["", *sets, *(f"Δ HARD ({name})" for name in compared), "gap closed, %", "teacher consistency, %", "trials"]
    rows = []
    for name, accuracy in summary["accuracy"].items():
        difference = summary.get("hard_minus", {}).get(name)
        consistency = summary["teacher_consistency"].get(name)
        closed = summary.get("gap_closed", {}).get(name)
        trials = summary.get("trial_counts", {}).get(name)
        label = name
        if name == "random_tuned":
            label += " (x" + ", x".join(f"{scale:g}" for scale in summary["random_tuned_scales"]) + ")"
        rows.append(
            [
                label,
                *(text(accuracy[s]) for s in sets),
                *("" if difference is None else text(difference[s], sign=True) for s in compared),
                "" if closed is None else text(closed),
                "" if consistency is None else f"{consistency['mean']:.0f}",
                "" if trials is None else str(trials),
            ]
        )
    return _without_empty(head, rows, always=1 + len(sets))


def _without_empty(head: list[str], rows: list[list[str]], *, always: int) -> tuple[list[str], list[list[str]]]:
    columns = [i for i in range(len(head)) if i < always or any(row[i] for row in rows)]
    return [head[i] for i in columns], [[row[i] for i in columns] for row in rows]


def _best(summary: dict[str, Any]) -> Table | None:
    rows = [
        [name, one["row"], text(one["accuracy"]), text(one["hard"]), text(one["hard_minus"], sign=True)]
        for name, one in summary["best_baseline"].items()
    ]
    title = (
        "The best baseline on each test set, out of all rows except hard, generated, oracle and supervised. It is "
        "selected by its test accuracy, which favours it. Δ HARD: accuracy of HARD minus that of the row, paired by "
        "seed."
    )
    return Table(title, ["", "best baseline", "accuracy", HARD, "Δ HARD"], rows, words=(1,)) if rows else None


def _costs(summary: dict[str, Any]) -> Table | None:
    evaluations, seconds = summary["evaluations"], summary["seconds"]
    rows = [
        [
            name,
            millions(evaluations[name]) if name in evaluations else "",
            _relative(evaluations, name),
            text(seconds[name]) if name in seconds else "",
            _relative(seconds, name),
        ]
        for name in summary["accuracy"]
        if name in evaluations or name in seconds
    ]
    if not rows:
        return None
    head = ["", "evaluations, millions", "evaluations relative to KD", "seconds", "time relative to KD"]
    title = (
        "Training cost of one student: network evaluations (forward and backward passes of one image through teacher "
        "or student, counted separately), and seconds."
    )
    return Table(title, *_without_empty(head, rows, always=1))


def _relative(costs: dict[str, Any], name: str) -> str:
    kd = costs.get("kd", {}).get("mean")
    return f"{costs[name]['mean'] / kd:.2f}" if kd and name in costs else ""


def _reached(summary: dict[str, Any]) -> list[Table]:
    found = []
    every = summary["config"].get("eval_every")
    for key, of in summary["reached"].items():
        base, total = of["baseline"], of["total_cost"]
        title = (
            f"Cost to reach {text(of['accuracy'])} % on {key}, the final accuracy of the best baseline there, {base} "
            f"(compared by seed): each row's cost at its first point that reaches it. % of total: relative to {base}'s "
            f"whole training, {whole(total['step'])} steps, {millions(total['evaluations'])} million evaluations, "
            f"{text(total['seconds'])} s; % of first: relative to {base}'s own cost at its first such point. "
            "Means over the seeds that reach it" + (f"; evaluated every {every} steps." if every else ".")
        )
        head = [
            "",
            "steps",
            "evaluations, millions",
            "seconds",
            "evaluations, % of total",
            "seconds, % of total",
            "evaluations, % of first",
            "seeds that reach it",
        ]
        rows = []
        for name, one in of["rows"].items():
            if one["seeds"]:
                spent = [whole(one["step"]), millions(one["evaluations"]), text(one["seconds"])]
                fractions = [
                    one["fraction_of_total"]["evaluations"],
                    one["fraction_of_total"]["seconds"],
                    one["fraction_of_first"]["evaluations"],
                ]
                spent += ["" if fraction is None else _percent(fraction) for fraction in fractions]
            else:
                spent = [NEVER, "", "", "", "", ""]
            rows.append([name, *spent, f"{one['seeds']} of {len(summary['seeds'])}"])
        found.append(Table(title, head, rows))
        seeds = summary["seeds"]
        by_seed = [[name, *(_spent(one, number) for number in range(len(seeds)))] for name, one in of["rows"].items()]
        title = f"Cost to reach the best baseline by seed, {key}"
        found.append(Table(title, ["", *(f"seed {seed}" for seed in seeds)], by_seed, folded=True))
    return found


def _spent(one: dict[str, Any], number: int) -> str:
    """Return the cost of one seed."""
    if not one["seeds"] or one["step"]["values"][number] is None:
        return NEVER
    step, evaluations, seconds = (one[cost]["values"][number] for cost in ("step", "evaluations", "seconds"))
    return f"{step:.0f} steps, {millions({'mean': evaluations, 'sd': None})} M evaluations, {seconds:.1f} s"


def _percent(value: dict[str, Any]) -> str:
    return whole({"mean": 100 * value["mean"], "sd": None if value["sd"] is None else 100 * value["sd"]})


def _views(summary: dict[str, Any]) -> Table | None:
    views = summary.get("views")
    if not views:
        return None
    keys = list(dict.fromkeys(key for one in views.values() for key in one))
    rows = [[name, *(precise(one[key]) if key in one else "" for key in keys)] for name, one in views.items()]
    title = (
        "Failure metrics of the views or images that the students were trained on besides real images (defined in "
        "hard_aug.synthesis.failure_metrics), and the cost of generated images."
    )
    return Table(title, ["", *(key.replace("_", " ") for key in keys)], rows)


def _sets(summary: dict[str, Any]) -> Table | None:
    """Return the table of all test sets, if the first table does not show them."""
    sets = summary_sets(summary["sets"])
    if shown_sets(summary) == sets:
        return None
    rows = [[name, *(text(accuracy[s]) for s in sets)] for name, accuracy in summary["accuracy"].items()]
    return Table("Accuracy on all test sets, %", ["", *sets], rows, folded=True)


def _trials(summary: dict[str, Any]) -> Table | None:
    validated = _validation_sets(summary)
    rows = [
        [
            name,
            written(one["settings"]),
            text(one["validation"]),
            *("" if value is None else text(value) for value in map(one.get("validation_sets", {}).get, validated)),
            ", ".join(map(str, one["selected_by"])),
            ", ".join(map(str, one["selected_by_clean"])),
        ]
        for name, trials in summary.get("trials", {}).items()
        for one in trials
    ]
    if not rows:
        return None
    title = (
        f"Trials, validation accuracy in %. {summary['selection_rule']} Last column: the seeds in which clean images "
        "alone would select the trial."
    )
    sets = (f"validation, {key}" for key in validated)
    head = ["", "settings", "validation", *sets, "selected in seeds", "by clean images alone"]
    return Table(title, *_without_empty(head, rows, always=3), folded=True, words=(1,))


def _validation_sets(summary: dict[str, Any]) -> list[str]:
    found = [
        key for those in summary.get("trials", {}).values() for one in those for key in one.get("validation_sets", {})
    ]
    return list(dict.fromkeys(found)) if len(set(found)) > 1 else []


def _clean_selection(summary: dict[str, Any]) -> Table | None:
    found = summary.get("clean_selection", {})
    if not found or summary["config"].get("select_on") == "clean":
        return None
    sets = list(next(iter(found.values()))["accuracy"])
    rows = [
        [
            name,
            *(text(accuracy[s]) for s in sets for accuracy in (summary["accuracy"][name], one["accuracy"])),
            f"{len(one['same'])} of {len(summary['seeds'])}",
        ]
        for name, one in found.items()
    ]
    head = ["", *(cell for s in sets for cell in (f"{s}, as selected", f"{s}, clean selection")), "same trial, seeds"]
    title = (
        "Test accuracy in % if the trials were selected on clean validation images alone (clean selection), beside "
        "that of the trials as selected."
    )
    return Table(title, head, rows, folded=True)


def written(settings: dict[str, Any]) -> str:
    """Return settings in one line."""
    return " ".join(f"{key}={value}" for key, value in settings.items())
