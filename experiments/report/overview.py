"""Overview of groups that differ in the task: all methods on all tasks, and what they cost with their tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import pandas as pd

from experiments.report.captions import data_of, short_titles
from experiments.report.groups import HARD, REFERENCES, Group
from experiments.report.records import place
from experiments.report.tables import Table, bold, millions, spread

#: The gap between kd and oracle, or teacher, must be at least so large for a task to count, percentage points.
MIN_GAP = 5.0
#: Methods that are no controls of HARD: besides the references, those without augmentation or with made images.
NO_CONTROLS = (*REFERENCES, HARD, "kd", "second_batch", "generated", "pool")
#: Rows that HARD is also compared with by themselves.
COMPARED = ("calibrated", "random_groups", "random", "kd")


@dataclass(frozen=True)
class Overview:
    """All methods on several tasks.

    Attributes:
        groups: by task.
        accuracies: by task, on its main test set, %: a line for each seed, a column for each row and for the teacher.
        references: a line for each task: the mean accuracies `teacher`, `kd`, `oracle`, and the gaps `to_teacher` and
            `to_oracle` of kd, %; NaN where it is not known.
        trials: a line for each task, row and trial: `task`, `name`, `method`, `settings`, `seeds`, whether it is
            `chosen`, how many are `tried`, its `rank` by validation accuracy from 0, the network `evaluations` of a
            run, the fraction of predictions that the teacher keeps (`consistency`), the closed fraction of the gap
            `to_oracle` and `to_teacher`, and the difference to the oracle (`delta`), all in % or percentage points.
    """

    groups: dict[str, Group]
    accuracies: dict[str, pd.DataFrame]
    references: pd.DataFrame
    trials: pd.DataFrame

    @property
    def names(self) -> list[str]:
        """The rows, in the order of tables."""
        methods = self.trials.groupby("name").method.first()
        return sorted(methods.index, key=lambda name: (place(methods[name]), name))

    @property
    def chosen(self) -> pd.DataFrame:
        """The chosen trials; `total` are the network evaluations of one run for each trial."""
        cost = self.trials.groupby(["task", "name"]).evaluations.mean().rename("mean")
        found = self.trials[self.trials.chosen].join(cost, on=["task", "name"])
        return found.assign(total=found.tried * found["mean"]).drop(columns="mean")

    def of(self, method: str) -> list[str]:
        """Return the rows of a method."""
        rows = set(self.trials.name[self.trials.method == method])
        return [name for name in self.names if name in rows]

    @property
    def controls(self) -> list[str]:
        """The rows of augmentation that HARD is compared with."""
        none = set(self.trials.name[self.trials.method.isin(NO_CONTROLS)])
        return [name for name in self.names if name not in none]

    def counted(self, gap: str) -> list[str]:
        """Return the tasks in which the gap `to_oracle` or `to_teacher` is large enough, and the teacher knows it."""
        large = self.references.index[self.references[gap] >= MIN_GAP]
        return [task for task in large if _knows(self.groups[task])]

    @property
    def title(self) -> str:
        """The heading."""
        return f"Overview of {len(self.groups)} task{'s' * (len(self.groups) != 1)}"

    @property
    def tables(self) -> list[Table]:
        """The non-empty tables: methods by task, the references, and folded what is closed and selected by task."""
        found = (_methods(self), _references(self), _closed(self), _selected(self))
        return [table for table in found if table.cells.size]

    @property
    def verdict(self) -> str:
        """How HARD compares with the best control of each task, with the calibrated one, and with kd."""
        return _verdict(self)

    def csv(self) -> pd.DataFrame:
        """Return a line for each task and row: the chosen trial with its mean accuracy and the task's references."""
        accuracy = pd.concat({task: table.agg(["mean", "std"]).T for task, table in self.accuracies.items()})
        accuracy.index.names = ["task", "name"]
        found = self.chosen.drop(columns=["chosen", "rank"]).join(
            accuracy.rename(columns={"mean": "accuracy", "std": "accuracy_sd"}), on=["task", "name"]
        )
        return found.join(self.references[["teacher", "kd", "oracle"]], on="task")


def overview(groups: Sequence[Group]) -> Overview:
    """Return the overview of groups.

    Raises:
        ValueError: there are none.
    """
    if not groups:
        raise ValueError("--overview: no finished runs")
    data = [data_of(group.config) for group in groups]
    places = [(-data.count(name), name) for name in data]  # the data set of the most groups first
    named = {
        task: group
        for _, task, group in sorted(zip(places, short_titles(groups), groups, strict=True), key=itemgetter(0, 1))
    }
    labels = _labels(groups)
    accuracies, references, lines = {}, {}, []
    for task, group in named.items():
        own = {name: labels[row] for name, row in group.frame.groupby("name").row.first().items()}
        table = group.by_seed(group.main).rename(columns=own)
        unknown = table.teacher * float("nan")
        kd, oracle = (
            table[own[rows[0]]] if len(rows) == 1 else unknown for rows in (group.kd, group.rows(only="oracle"))
        )
        tops = {"to_teacher": table.teacher, "to_oracle": oracle}
        gaps = {name: (top - kd).mean() for name, top in tops.items()}
        accuracies[task] = table
        references[task] = {"teacher": table.teacher.mean(), "kd": kd.mean(), "oracle": oracle.mean(), **gaps}
        counted = gaps if _knows(group) else dict.fromkeys(gaps, float("nan"))
        lines.append(
            _trials(group, kd, oracle, counted).assign(task=task, name=lambda found, own=own: found.name.map(own))
        )
    return Overview(named, accuracies, pd.DataFrame(references).T, pd.concat(lines, ignore_index=True))


def _knows(group: Group) -> bool:
    """Return whether the teacher knows the invariance of the task."""
    return bool(group.config["task"].get("teacher_knows", True))


def _labels(groups: Sequence[Group]) -> dict[str, str]:
    """Return the name of each row, by its hash: the longest, where a group has fewer rows to distinguish."""
    pairs = pd.concat([group.frame[["row", "name"]] for group in groups]).drop_duplicates()
    return {str(row): max(names, key=len) for row, names in pairs.groupby("row").name}


def _trials(group: Group, kd: pd.Series, oracle: pd.Series, gaps: dict[str, float]) -> pd.DataFrame:
    """Return the lines of a task's trials; see `Overview.trials`."""
    main = group.frame[group.frame.set == group.main]
    numbers = main.groupby(["name", "settings"])[["evaluations", "teacher_consistency"]].mean()
    found = group.trials[["name", "method", "settings", "seeds", "chosen", "tried"]]
    value = group.trials.value.fillna(-1).round(6)  # equal ones in their order, as in their selection
    found = found.assign(rank=value.groupby(found.name).rank(ascending=False, method="first").astype(int) - 1)
    found = found.join(numbers.rename(columns={"teacher_consistency": "consistency"}), on=["name", "settings"])
    above, delta = [], []
    for one in found.itertuples():
        own = main[(main.name == one.name) & (main.settings == one.settings)].set_index("seed").accuracy
        above.append((own - kd).mean())  # of the seeds that both have
        delta.append((own - oracle).mean())
    for name, gap in gaps.items():
        found[name] = 100 * pd.Series(above, found.index) / (gap if gap >= MIN_GAP else float("nan"))
    return found.assign(delta=delta)


def _closed(found: Overview) -> Table:
    cells = found.chosen.pivot(index="name", columns="task", values="to_oracle")
    cells = cells.reindex(index=found.names, columns=found.counted("to_oracle"))
    cells = cells.map("{:.0f}".format, na_action="ignore").astype(object).fillna("")
    return Table("Closed fraction of the gap between kd and the oracle by task, %", cells, folded=True)


def _selected(found: Overview) -> Table:
    chosen = found.chosen[found.chosen.tried > 1]
    cells = chosen.pivot(index="task", columns="name", values="settings").reindex(
        index=list(found.groups), columns=[name for name in found.names if name in set(chosen.name)]
    )
    return Table("Selected settings by task", cells.fillna(""), folded=True)


def _methods(found: Overview) -> Table:
    chosen, names, every = found.chosen, found.names, len(found.groups)
    text = pd.DataFrame({task: table.agg(spread) for task, table in found.accuracies.items()}).reindex(names)
    mean = pd.DataFrame({task: table.mean() for task, table in found.accuracies.items()}).reindex(names)
    rows = chosen.groupby("name")
    heads = {"to_oracle": "gap to oracle closed, %", "to_teacher": "gap to teacher closed, %"}
    for key, head in heads.items():
        mean[head] = rows[key].mean()
        text[head] = mean[head].map("{:.1f}".format, na_action="ignore")
    text["Δ oracle"] = rows.delta.mean().map("{:+.1f}".format, na_action="ignore")
    text["teacher consistency, %"] = rows.consistency.mean().map("{:.0f}".format, na_action="ignore")
    text["evaluations with all trials, millions"] = rows.total.agg(millions)
    text["trials"] = rows.tried.agg(_interval) if chosen.tried.max() > 1 else ""
    text["tasks"] = rows.size().map(str) if rows.size().min() < every else ""
    references = [name for method in REFERENCES for name in found.of(method)]
    text = bold(text.astype(object).fillna(""), mean, [name for name in names if name not in references])
    return Table(_caption(found), text.loc[:, [head in found.groups or text[head].any() for head in text]])


def _interval(numbers: pd.Series) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low} to {high}"


def _caption(found: Overview) -> str:
    """Return the caption of the first table."""
    seeds = sorted({int(seed) for table in found.accuracies.values() for seed in table.index})
    rules = sorted({group.select_on for group in found.groups.values()})
    counts = [f"{len(found.counted(gap))} of {len(found.groups)}" for gap in ("to_oracle", "to_teacher")]
    parts = [
        f"Accuracy on the main test set of each task in %, mean ± standard deviation over seeds "
        f"({', '.join(map(str, seeds))}).",
        f"Gap closed: (row - kd) / (oracle - kd), mean over the {counts[0]} tasks with a teacher that knows the "
        f"invariance and an oracle at least {MIN_GAP:g} points above kd; likewise for the teacher ({counts[1]}).",
        "Δ oracle: row minus oracle, percentage points, mean over tasks.",
        "Teacher consistency: augmented views on which the teacher's prediction is unchanged.",
        "Evaluations: network evaluations of one run for each trial, mean over tasks.",
    ]
    if found.trials.tried.max() > 1:
        parts.append(
            f"Trials are selected in each task by validation accuracy (select_on={', '.join(rules)}), mean over the "
            "seeds that all trials of a row share."
        )
    if found.chosen.groupby("name").size().min() < len(found.groups):
        parts.append("Where a row lacks tasks, its means are over those that it has.")
    return " ".join(parts)


def _references(found: Overview) -> Table:
    heads = {
        "teacher": "teacher",
        "kd": "kd",
        "oracle": "oracle",
        "to_oracle": "kd to oracle",
        "to_teacher": "kd to teacher",
    }
    cells = found.references[list(heads)].rename(columns=heads).map("{:.1f}".format, na_action="ignore")
    return Table(
        "References by task: mean accuracy in %, and gaps in percentage points.", cells.astype(object).fillna("")
    )


def _verdict(found: Overview) -> str:
    text = []
    for hard in found.of(HARD):
        best = {}
        for task, table in found.accuracies.items():
            controls = [name for name in found.controls if name in table]
            if hard in table and controls:
                best[task] = str(table[controls].mean().idxmax())
        text.append(
            _difference(found, hard, best, "the best control of each task (by its test accuracy, which favours it)")
        )
        for other in (other for method in COMPARED for other in found.of(method)):
            text.append(_difference(found, hard, dict.fromkeys(found.groups, other), other))
    return " ".join(filter(None, text))


def _difference(found: Overview, hard: str, others: dict[str, str], name: str) -> str:
    """Return the mean over tasks and the smallest of the differences between HARD and another row of each task."""
    pairs = {task: (table, others[task]) for task, table in found.accuracies.items() if task in others}
    by_task = {task: (t[hard] - t[o]).mean() for task, (t, o) in pairs.items() if hard in t and o in t}
    points = pd.Series(by_task, dtype=float).dropna()  # of the seeds that both have
    if points.empty:
        return ""
    worst = str(points.idxmin())
    against = "" if others[worst] == name else f", {others[worst]}"
    return (
        f"{hard} minus {name}: {points.mean():+.1f} points in the mean of {len(points)} tasks, smallest "
        f"{points.min():+.1f} ({worst}{against})."
    )
