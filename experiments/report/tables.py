"""The tables of a group, as frames of formatted cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from experiments.report.captions import caption, selection
from experiments.report.groups import HARD, Group
from experiments.report.records import MAX_PARAMETERS, accuracies, short

#: The gap between kd and teacher must be at least so large, percentage points, for a fraction of it to be meaningful.
MIN_GAP = 2.0
#: Fractions of the gap beyond this are not shown, %.
MAX_CLOSED = 200.0
#: Costs of a curve's point, with their titles.
COSTS = {"step": "steps", "evaluations": "evaluations, millions", "seconds": "seconds"}


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: complete in itself.
        cells: formatted; the index has the names of the rows. `**` encloses the best values of a column.
        folded: collapsed at first on the page.
    """

    caption: str
    cells: pd.DataFrame
    folded: bool = False

    def markdown(self) -> str:
        """Return the table as Markdown, inside HTML `details` if folded."""
        head = ["", *self.cells.columns]
        lines = [head, ["---"] * len(head), *self.cells.reset_index().to_numpy().tolist()]
        table = "\n".join("| " + " | ".join(map(_in_one_line, line)) + " |" for line in lines)
        if self.folded:
            return f"<details><summary>{self.caption}</summary>\n\n{table}\n\n</details>"
        return f"{self.caption}\n\n{table}"

    def plain(self) -> str:
        """Return the table with aligned columns, for a terminal."""
        return f"{self.caption}\n\n{self.cells.rename_axis(None).to_string()}"


def _in_one_line(cell: object) -> str:
    """Return the text of a cell of a Markdown table."""
    return " ".join(escape(str(cell), quote=False).replace("|", "\\|").splitlines())


def spread(values: Iterable[float], digits: int = 1, *, sign: bool = False) -> str:
    """Format mean and sample standard deviation: `1.0 ± 0.2`, `1.0` for one value, empty without values."""
    found = pd.Series(values, dtype=float).dropna()
    if found.empty:
        return ""
    mean = round(found.mean(), digits) + 0.0  # no negative zero
    text = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return text if len(found) == 1 else f"{text} ± {found.std():.{digits}f}"


def millions(values: Iterable[float]) -> str:
    """Format a mean in millions with three digits."""
    mean = pd.Series(values, dtype=float).mean() / 1e6
    return "" if pd.isna(mean) else f"{mean:.{max(0, 3 - len(f'{mean:.0f}')) if mean >= 1 else 3}f}"


def bold(text: pd.DataFrame, mean: pd.DataFrame, rows: Sequence[str], *, lowest: bool = False) -> pd.DataFrame:
    """Return cells with the best of each column of values in bold: of some rows, and unless all of them look equal."""
    text = text.copy()
    for column in mean:
        values = mean.loc[mean.index.intersection(rows), column].dropna().round(1)
        best = values.index[values == (values.min() if lowest else values.max())]
        if values.nunique() > 1:
            text.loc[best, column] = "**" + text.loc[best, column] + "**"
    return text


def tables(group: Group) -> list[Table]:
    """Return all non-empty tables of a group."""
    found = [accuracy(group), best_baselines(group), costs(group), *reached(group), failure_metrics(group)]
    found.append(policy(group))
    if group.shown != group.sets:
        text, mean = _accuracies(group, group.sets)
        found.append(Table("Accuracy on all test sets, %", bold(text, mean, group.rows()), folded=True))
    return [table for table in (*found, trials(group)) if table.cells.size]


def accuracy(group: Group) -> Table:
    """Return the first table: accuracies, differences to HARD, gap closed, teacher consistency and trials."""
    text, mean = _accuracies(group, group.shown)
    main, runs = group.by_seed(group.main), group.runs.groupby("name")
    for hard in group.hard:
        title = f"Δ {hard if len(group.hard) > 1 else 'HARD'} ({group.main})"
        text[title] = (-main.drop(columns=["teacher", hard]).sub(main[hard], axis=0)).agg(spread, sign=True)
    closed, reason = gap_closed(group, main)
    text["gap closed, %"], mean["gap closed, %"] = closed.agg(spread), closed.mean()
    consistency = runs.teacher_consistency.mean()
    text["teacher consistency, %"] = consistency.map("{:.0f}".format, na_action="ignore")
    text["trials"] = runs.tried.first().map(str) if group.trials.tried.max() > 1 else ""
    text = bold(text.astype(object).fillna(""), mean, group.rows())
    shown = [name for name in text if name in group.shown or text[name].any()]
    return Table(f"{caption(group)} {reason}".strip(), text[shown])


def _accuracies(group: Group, sets: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return accuracies as text and as means, with the teacher's first."""
    by_set = {name: group.by_seed(name) for name in sets}
    text = pd.DataFrame({name: table.agg(spread) for name, table in by_set.items()})
    rows = [name for name in ("teacher", *group.rows(without=())) if text.loc[name].any()]
    return text.loc[rows], pd.DataFrame({name: table.mean() for name, table in by_set.items()}).loc[rows]


def gap_closed(group: Group, main: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the closed fraction of the gap between kd and teacher by seed and row, %, and why values are missing."""
    kd, images, top = group.kd, group.first.get("test_images"), main.teacher.mean() / 100
    rows = main.drop(columns=["teacher", *kd])
    gap = main.teacher - main[kd].mean(axis=1)
    needed = max(MIN_GAP, 200 * (top * (1 - top) / images) ** 0.5 if images else 0.0)  # two standard errors
    reason = f"{''.join(kd)} is {gap.min():.1f} points behind the teacher in a seed, less than {needed:.1f}"
    if gap.isna().any():
        reason = "the accuracy of the teacher or of distillation is not known in every seed"
    if len(kd) != 1 or gap.isna().any() or gap.min() < needed:
        return rows * float("nan"), f"Gap closed is blank: {reason}." if kd else ""
    closed = 100 * rows.sub(main[kd[0]], axis=0).div(gap, axis=0)
    beyond = closed.columns[closed.mean().abs() > MAX_CLOSED]
    closed[beyond] = float("nan")
    return closed, f"Gap closed is blank beyond ±{MAX_CLOSED:.0f} %." if len(beyond) else ""


def best_baselines(group: Group) -> Table:
    """Return the best baseline on each compared set, and HARD's differences."""
    found: dict[str, dict[str, str]] = {}
    for name in group.compared if group.hard and group.baselines else ():
        table = group.by_seed(name)
        best = table[group.baselines].mean().idxmax()
        found[name] = {"best baseline": best, "accuracy": spread(table[best])}
        for hard in group.hard:
            found[name] |= {hard: spread(table[hard]), f"Δ {hard}": spread(table[hard] - table[best], sign=True)}
    text = (
        "The best baseline on each test set, of all rows except hard, generated, pool, oracle and supervised, selected "
        "by its test accuracy, which favours it. Δ: HARD minus the baseline, paired by seed, percentage points."
    )
    return Table(text, pd.DataFrame(found).T)


def verdict(group: Group) -> str:
    """Return a sentence on the best row of the main set and on HARD."""
    table, text = group.by_seed(group.main), ""
    for best in table[group.rows()].mean().nlargest(1).index:
        text = f"Best on {group.main}: {best}, {spread(table[best])} %."
        for hard in group.hard:
            for other in table[[best] if best != hard else group.baselines].mean().nlargest(1).index:
                text += f" {hard} minus {other}: {spread(table[hard] - table[other], sign=True)} points."
    return text


def costs(group: Group) -> Table:
    """Return the cost of one student by row, absolute and relative to kd."""
    runs, text, mean = group.runs.groupby("name", sort=False), pd.DataFrame(), pd.DataFrame()
    kd = group.kd
    for key, form in (("evaluations", millions), ("seconds", spread)):
        text[COSTS[key]], mean[COSTS[key]] = runs[key].agg(form), runs[key].mean() / (1e6 if form is millions else 1)
        if len(kd) == 1:
            relative = mean[COSTS[key]] / mean[COSTS[key]][kd[0]]
            text[f"{key} relative to {kd[0]}"] = relative.map("{:.2f}".format, na_action="ignore")
    text = bold(text.astype(object).fillna(""), mean, group.rows(), lowest=True)
    return Table(
        "Cost of training one student: network evaluations (forward and backward passes of one image through teacher "
        "or student, counted separately), and seconds.",
        text.loc[:, text.ne("").any()],
    )


def curves(group: Group) -> pd.DataFrame:
    """Return the accuracy curves of the chosen trials: `name`, `seed`, `COSTS`, and each test set's accuracy in %."""
    points = []
    for run in group.runs.itertuples():
        record = group.records[run.run]
        for point in record["student"].get("curve") or ():
            found = {key: 100 * value for key, value in accuracies(record, point["accuracy"]).items()}
            points.append({"name": run.name, "seed": run.seed, **{key: point[key] for key in COSTS}, **found})
    return pd.DataFrame(points)


def reached(group: Group) -> list[Table]:
    """Return for each compared set what rows cost until they are as accurate as the best baseline is at its end."""
    points, found = curves(group), []
    for name in group.compared if group.baselines and len(points) else ():
        final = group.by_seed(name)
        best = final[group.baselines].mean().idxmax()
        total = points[points.name == best].groupby("seed")[list(COSTS)].max()
        if total.empty:
            continue
        there = points[points[name] >= points.seed.map(final[best]) - 1e-9]
        first, rows = there.groupby(["name", "seed"])[list(COSTS)].min(), {}
        for row, part in points.groupby("name", sort=False):
            own = first.xs(row) if row in first.index else total.iloc[:0]
            share = 100 * own / total.loc[own.index]
            cost = [spread(own.step, 0), millions(own.evaluations), spread(own.seconds)]
            cost += [spread(share.evaluations, 0), spread(share.seconds, 0)]
            rows[row] = [*cost, f"{len(own)} of {part.seed.nunique()}"]
        head = [*COSTS.values(), "evaluations, % of total", "seconds, % of total", "seeds that reach it"]
        text = (
            f"Cost to reach {spread(final[best])} % on {name}, the final accuracy of the best baseline there, {best} "
            f"(compared by seed). % of total: of that baseline's {total.step.mean():.0f} steps. Means over the seeds "
            f"that reach it; evaluated every {group.config.get('eval_every')} steps."
        )
        found.append(Table(text, pd.DataFrame(rows, index=head).T))
    return found


def failure_metrics(group: Group) -> Table:
    """Return the means of the failure metrics of the images that the students were trained on."""
    found = [group.records[run].get("failure_metrics", {}) for run in group.runs.run]
    means = pd.DataFrame(found, index=group.runs.name).groupby(level=0, sort=False).mean().dropna(how="all")
    means.columns = [str(name).replace("_", " ") for name in means]
    text = "Failure metrics of the augmented or generated images (defined in hard_aug.synthesis.failure_metrics)."
    return Table(text, means.map("{:.3g}".format, na_action="ignore").fillna(""))


def policy(group: Group) -> Table:
    """Return the standard deviations of the parameters that HARD's policies draw."""
    found: dict[str, dict[str, str]] = {}
    for name, runs in group.runs.groupby("name", sort=False).run:
        drawn = pd.DataFrame([group.records[run].get("policy", {}) for run in runs])
        for key in drawn if len(drawn.columns) <= MAX_PARAMETERS else ():
            one = pd.json_normalize(drawn[key].dropna().tolist())
            pixels = f" = {spread(one.sd_pixels)} px" if "sd_pixels" in one else ""
            found.setdefault(name, {})[f"{key}, {one.unit[0]}"] = spread(one.sd, 3) + pixels
    text = "Learned distribution: standard deviation of what HARD draws at the end of the training."
    return Table(text, pd.DataFrame(found).fillna(""))


def trials(group: Group) -> Table:
    """Return all trials of the rows that have several, with validation and test accuracies."""
    test = group.frame.groupby(["name", "settings", "set"]).accuracy.agg(spread)
    found = {}
    for one in group.trials[group.trials.tried > 1].itertuples():
        cells = {"settings": one.settings or "(none)", "seeds": one.seeds, "selected": "yes" if one.chosen else ""}
        cells["validation, clean"] = spread([one.validation_clean])
        cells[f"validation, {group.main}"] = spread([one.validation_main])
        found[one.Index] = cells | {f"test, {name}": test[one.name, one.settings, name] for name in group.compared}
    cells = pd.DataFrame(found).T.rename(index=group.trials.name)
    return Table(f"Trials, accuracy in %. {selection(group)}", cells, folded=True)


def pivot(group: Group, rows: str, columns: str) -> Table:
    """Return the main accuracy of HARD by dotted keys of the method's node, such as augmenter.objective.

    Raises:
        ValueError: no row of HARD has the keys, or several rows have the same values.
    """
    runs, found = group.runs[group.runs.method == HARD], dict[tuple[str, ...], str]()
    for name, run in runs.groupby("name").run.first().items():
        place = tuple(_setting(group.records[run]["row"], keys) for keys in (columns, rows))
        if place in found:
            raise ValueError(f"--pivot: {found[place]} and {name} have the same {rows} and {columns}; add a key")
        if all(place):
            found[place] = name
    if not found:
        raise ValueError(f"--pivot: no row of hard has {rows} and {columns}; expected such as augmenter.objective")
    table = group.by_seed(group.main)[list(found.values())].set_axis(pd.MultiIndex.from_tuples(found), axis=1)
    text, mean = (table.agg(form).unstack(0) for form in (spread, "mean"))
    cells = bold(text.fillna("-"), mean, list(mean.index))
    return Table(f"HARD, accuracy on {group.main}. {caption(group)}", cells)


def _setting(row: dict[str, Any], keys: str) -> str:
    found = []
    for key in keys.split(","):
        node: Any = row
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return ""
            node = node[part]
        found.append(short(node))
    return ", ".join(found)
