"""Groups of comparable runs, and the one rule by which a row's trial is selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from experiments.report.records import HELD_OUT, Record, frame, joined
from experiments.training.accuracy import summary_sets
from hard_aug.utils.files import write_text

HARD = "hard"
#: They use more than the others, or no teacher: never the best of a column, and no baselines.
REFERENCES = ("teacher", "oracle", "supervised")
#: With more test sets than this, the first table only shows those that rows are compared on.
WIDE = 6
#: With more rows of HARD than this, the others are not compared with each of them.
COMPARED = 3


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different methods, settings and seeds.

    Attributes:
        records: of all groups, numbered as in the frame's `run`.
        frame: of this group's runs, from `records.frame`.
        select_on: validation accuracy that trials are selected by: `clean`, `main`, or `sum` for their mean.
        trials: of all rows; `value` is the mean validation accuracy, `tried` the number of trials of the row.
        chosen: the frame of the chosen trials.
        config: the configuration that the runs share.
        main: the main test set.
        sets: the test sets that are not a subset of another one.
        compared: those that rows are compared on: clean images, the main set, the held-out corruptions.
    """

    records: Sequence[Record]
    frame: pd.DataFrame
    select_on: str
    trials: pd.DataFrame
    chosen: pd.DataFrame
    config: dict[str, Any]
    main: str
    sets: list[str]
    compared: list[str]

    @property
    def first(self) -> Record:
        """The first record."""
        return self.records[int(self.frame.run.iloc[0])]

    def joined(self, key: str) -> str:
        """Return the different texts that the group's records have under a key."""
        return joined((self.records[run] for run in self.frame.run), key)

    @property
    def shown(self) -> list[str]:
        """The test sets of the first table."""
        return self.sets if len(self.sets) <= WIDE else self.compared

    @property
    def runs(self) -> pd.DataFrame:
        """The chosen trials, a line for each run."""
        return self.chosen.drop_duplicates("run")

    def rows(self, *, without: Sequence[str] = REFERENCES, only: str | None = None) -> list[str]:
        """Return the names of the rows without those of some methods, or only those of one."""
        methods = self.trials.groupby("name", sort=False).method.first()
        return list(methods.index[methods == only if only else ~methods.isin(without)])

    @property
    def kd(self) -> list[str]:
        """The rows of plain distillation."""
        return self.rows(only="kd") or self.rows(only="second_batch")

    @property
    def baselines(self) -> list[str]:
        """The rows that HARD is compared with."""
        return self.rows(without=[*REFERENCES, HARD, "generated", "pool"])

    @property
    def hard(self) -> list[str]:
        """The rows of HARD that the others are compared with."""
        names = self.rows(only=HARD)
        return names if len(names) <= COMPARED else []

    def by_seed(self, name: str) -> pd.DataFrame:
        """Return the accuracy on a test set: a line for each seed, a column for each row and for the teacher."""
        part = self.chosen[self.chosen.set == name]
        table = part.pivot(index="seed", columns="name", values="accuracy")[part.name.unique()]
        table.insert(0, "teacher", part.groupby("seed").teacher.mean())
        return table

    def csv(self, title: str) -> pd.DataFrame:
        """Return a line for each run and test set; accuracies in %."""
        table = self.frame.merge(self.trials[["name", "settings", "chosen"]], on=["name", "settings"])
        first = ["group", "name"]
        return table.assign(group=title)[[*first, *table.columns.drop([*first, "run", "row"])]]


def split(records: Sequence[Record], select_on: str | None = None) -> list[Group]:
    """Return the groups of records; `select_on` replaces that of each group's configuration, by default `main`."""
    found: list[Group] = []
    whole = frame(records) if records else pd.DataFrame(columns=["group", "run"])
    for key in whole.groupby("group").run.min().sort_values().index:
        part = whole[whole.group == key]
        first = records[part.run.iloc[0]]
        by = select_on or first["group"].get("select_on") or "main"
        trials, sets = select(part, by), summary_sets(part.set.unique())
        chosen = part.merge(trials[trials.chosen][["name", "settings", "tried"]], on=["name", "settings"])
        compared = [name for name in dict.fromkeys((sets[0], first["main"], HELD_OUT)) if name in sets]
        found.append(Group(records, part, by, trials, chosen, first["group"], first["main"], sets, compared))
    return found


def select(runs: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return all trials of a group's rows, with the chosen one of each row by `clean`, `main` or `sum`.

    It has the highest mean validation accuracy over the seeds that all trials of the row share (if they share none,
    over all of its seeds). A trial without validation accuracies comes last.
    """
    found, both = [], ["validation_clean", "validation_main"]
    runs = runs.drop_duplicates("run")
    runs = runs.assign(value=runs[both].mean(axis=1, skipna=False) if by == "sum" else runs[f"validation_{by}"])
    for name, row in runs.groupby("name", sort=False):
        count = row.settings.nunique()
        shared = row.groupby("seed").filter(lambda each, count=count: each.settings.nunique() == count)
        trials = row.groupby("settings", sort=False).agg(method=("method", "first"), run=("run", "first"))
        trials["seeds"] = row.groupby("settings").seed.agg(lambda seeds: ", ".join(map(str, sorted(seeds))))
        trials = trials.join((row if shared.empty else shared).groupby("settings")[["value", *both]].mean())
        trials = trials.assign(name=name, shared=not shared.empty, tried=max(count, row.trials.max()))
        found.append(trials.assign(chosen=trials.index == trials.value.fillna(-1).round(6).idxmax()).reset_index())
    return pd.concat(found, ignore_index=True)


def write_selection(path: Path, groups: Sequence[Group], sources: Sequence[Path]) -> None:
    """Write the chosen settings of each method, for `settings_from` of `experiments.train`.

    Raises:
        ValueError: several groups, several rows of a method, or trials that share no seed.
    """
    if len(groups) != 1:
        raise ValueError(f"--select: got runs of {len(groups)} configurations; give the folders of one")
    chosen = groups[0].trials[groups[0].trials.chosen]
    twice, apart = chosen.method[chosen.method.duplicated()], chosen.name[~chosen.shared]
    if len(twice):
        raise ValueError(f"--select: several rows of {', '.join(twice.unique())}; give the folders of one augmenter")
    if len(apart):
        raise ValueError(f"--select: the trials of {', '.join(apart)} share no seed; run all of them with one seed")
    found = {
        one.method: {"settings": list(groups[0].records[one.run]["settings"]), "trials": int(one.tried)}
        for one in chosen.itertuples()
    }
    comment = (
        f"# Selected by validation accuracy (select_on={groups[0].select_on}), mean over the seeds that all trials of "
        f"a method share, of the runs in {', '.join(map(str, sources))}\n"
    )
    write_text(path, comment + yaml.safe_dump(found, sort_keys=False, allow_unicode=True))
