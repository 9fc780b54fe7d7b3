"""The tables of a group, each narrow enough to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.evaluation import headline
from experiments.report.captions import caption
from experiments.report.costs import HARD
from experiments.report.figures import millions, precise, text, whole

#: Of more test sets than these the first table has those that rows are compared on, and another one has all.
WIDE = 6
NEVER = "never"


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: over it, with all that is needed to read it.
        head, rows: its cells.
        folded: whether a page shows it on a click only.
        words: the columns that hold words, not figures, beside the first.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    folded: bool = False
    words: tuple[int, ...] = ()

    def markdown(self) -> str:
        """As Markdown, in HTML's `details` if folded."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        cells = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        if self.folded:
            return f"<details><summary>{self.title}</summary>\n\n{cells}\n\n</details>"
        title = self.title.replace("\n", "\\\n")  # a backslash breaks the line
        return f"{title}\n\n{cells}"


def tables(summary: dict[str, Any]) -> list[Table]:
    """All tables of a group, those that have nothing to say left out."""
    found = [Table(caption(summary), *cells(summary))]
    made = [_best(summary), _costs(summary), *_reached(summary), _views(summary), _sets(summary)]
    made += [_trials(summary), _by_clean(summary)]
    return [*found, *(table for table in made if table is not None)]


def shown(summary: dict[str, Any]) -> list[str]:
    """The test sets that have a column in the first table: all but details, or of many the first and the judged."""
    sets = headline(summary["sets"])
    if len(sets) <= WIDE:
        return sets
    return [name for name in sets if name in (sets[0], summary["main"], *summary["best_baseline"])]


def cells(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a group's first table; columns in which nothing stands are left out."""
    sets, main = shown(summary), summary["main"]
    compared = list(summary["best_baseline"]) or [main]
    head = ["", *sets, *(f"HARD minus it, {name}" for name in compared), "gap closed", "keeps", "trials"]
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
                *("" if difference is None else text(difference[s], sign=True) for s in compared),
                "" if closed is None else f"{text(closed)} %",
                "" if kept is None else f"{kept['mean']:.0f} %",
                "" if trials is None else str(trials),
            ]
        )
    return _filled(head, rows, always=1 + len(sets))


def _filled(head: list[str], rows: list[list[str]], *, always: int) -> tuple[list[str], list[list[str]]]:
    kept = [i for i in range(len(head)) if i < always or any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _best(summary: dict[str, Any]) -> Table | None:
    rows = [
        [name, one["row"], text(one["accuracy"]), text(one["hard"]), text(one["hard_minus"], sign=True)]
        for name, one in summary["best_baseline"].items()
    ]
    title = (
        "The best baseline on each set, of all rows but hard, oracle and labels; the best by its test accuracy, which "
        "favours it. Differences are paired by seed."
    )
    return Table(title, ["", "best baseline", "accuracy", HARD, "HARD minus it"], rows, words=(1,)) if rows else None


def _costs(summary: dict[str, Any]) -> Table | None:
    evaluations, seconds = summary["evaluations"], summary["seconds"]
    rows = []
    for name in summary["accuracy"]:
        if name in evaluations or name in seconds:
            rows.append(
                [
                    name,
                    millions(evaluations[name]) if name in evaluations else "",
                    _times(evaluations, name),
                    text(seconds[name]) if name in seconds else "",
                    _times(seconds, name),
                ]
            )
    if not rows:
        return None
    head = ["", "evaluations, millions", "evaluations of kd's", "seconds", "seconds of kd's"]
    title = (
        "What one student costs: passes of an image through the teacher or the student, forward and backward counted "
        "apart, and seconds of training."
    )
    return Table(title, *_filled(head, rows, always=1))


def _times(costs: dict[str, Any], name: str) -> str:
    kd = costs.get("kd", {}).get("mean")
    return f"x{costs[name]['mean'] / kd:.2f}" if kd and name in costs else ""


def _reached(summary: dict[str, Any]) -> list[Table]:
    found = []
    every = summary["config"].get("eval_every")
    for key, of in summary["reached"].items():
        base, took = of["baseline"], of["took"]
        title = (
            f"Until {text(of['accuracy'])} % on {key}: what each row has spent when it first is as good as {base}, the "
            f"best baseline there, is in the end (by seed). Shares of what {base}'s whole training takes, "
            f"{whole(took['step'])} steps, {millions(took['evaluations'])} million evaluations, "
            f"{text(took['seconds'])} s, and of what {base} itself has spent when it is first there"
            + (f"; looked at every {every} steps" if every else "")
            + ". Means over the seeds that come there."
        )
        head = ["", "steps", "evaluations, millions", "seconds", "share of evaluations", "of seconds"]
        head += ["of evaluations until there", "seeds that come there"]
        rows = []
        for name, one in of["rows"].items():
            if one["seeds"]:
                spent = [whole(one["step"]), millions(one["evaluations"]), text(one["seconds"])]
                shares = [one["share"]["evaluations"], one["share"]["seconds"], one["share_of_first"]["evaluations"]]
                spent += ["" if share is None else _share(share) for share in shares]
            else:
                spent = [NEVER, "", "", "", "", ""]
            rows.append([name, *spent, f"{one['seeds']} of {len(summary['seeds'])}"])
        found.append(Table(title, head, rows))
        seeds = summary["seeds"]
        by_seed = [[name, *(_spent(one, number) for number in range(len(seeds)))] for name, one in of["rows"].items()]
        found.append(Table(f"The same by seed, {key}", ["", *(f"seed {seed}" for seed in seeds)], by_seed, folded=True))
    return found


def _spent(one: dict[str, Any], number: int) -> str:
    """What one seed has spent until there."""
    if not one["seeds"] or one["step"]["values"][number] is None:
        return NEVER
    step, evaluations, seconds = (one[cost]["values"][number] for cost in ("step", "evaluations", "seconds"))
    return f"{step:.0f} steps, {millions({'mean': evaluations, 'sd': None})} M, {seconds:.1f} s"


def _share(value: dict[str, Any]) -> str:
    return whole({"mean": 100 * value["mean"], "sd": None if value["sd"] is None else 100 * value["sd"]}) + " %"


def _views(summary: dict[str, Any]) -> Table | None:
    views = summary.get("views")
    if not views:
        return None
    keys = list(dict.fromkeys(key for one in views.values() for key in one))
    rows = [[name, *(precise(one[key]) if key in one else "" for key in keys)] for name, one in views.items()]
    title = (
        "The views that students were shown beside real images: how they fail, if they do (what each number is, says "
        "hard_aug.solvers.detectors), and of generated ones what they took."
    )
    return Table(title, ["", *(key.replace("_", " ") for key in keys)], rows)


def _sets(summary: dict[str, Any]) -> Table | None:
    """What is left out of the first table."""
    sets = headline(summary["sets"])
    if shown(summary) == sets:
        return None
    rows = [[name, *(text(accuracy[s]) for s in sets)] for name, accuracy in summary["accuracy"].items()]
    return Table("Accuracy on all sets", ["", *sets], rows, folded=True)


def _trials(summary: dict[str, Any]) -> Table | None:
    rows, validated = [], _validation_sets(summary)
    for name, trials in summary.get("trials", {}).items():
        for one in trials:
            each = [one.get("validation_sets", {}).get(key) for key in validated]
            rows.append(
                [
                    name,
                    written(one["settings"]),
                    text(one["validation"]),
                    *("" if value is None else text(value) for value in each),
                    ", ".join(map(str, one["chosen_by"])),
                    ", ".join(map(str, one["chosen_by_clean"])),
                ]
            )
    if not rows:
        return None
    head = ["", "settings", "validation", *(f"validation, {key}" for key in validated), "chosen by seeds"]
    head.append("by clean alone")
    title = (
        f"Trials on validation data, accuracy in %. {summary['rule']} Last, the seeds in which the clean ones alone "
        "would choose it."
    )
    return Table(title, *_filled(head, rows, always=3), folded=True, words=(1,))


def _validation_sets(summary: dict[str, Any]) -> list[str]:
    found = [
        key for those in summary.get("trials", {}).values() for one in those for key in one.get("validation_sets", {})
    ]
    return list(dict.fromkeys(found)) if len(set(found)) > 1 else []


def _by_clean(summary: dict[str, Any]) -> Table | None:
    found = summary.get("chosen_by_clean", {})
    if not found or summary["config"].get("choose_on") == "clean":
        return None
    sets = list(next(iter(found.values()))["accuracy"])
    rows = []
    for name, one in found.items():
        pairs = [(text(summary["accuracy"][name][s]), text(one["accuracy"][s])) for s in sets]
        rows.append(
            [name, *(cell for pair in pairs for cell in pair), f"{len(one['same'])} of {len(summary['seeds'])}"]
        )
    head = ["", *(cell for s in sets for cell in (f"{s}, as chosen", f"{s}, by clean")), "same trial"]
    title = (
        "Test accuracy had the trials been chosen by clean validation images alone, beside that of the trials chosen."
    )
    return Table(title, head, rows, folded=True)


def written(settings: dict[str, Any]) -> str:
    """Settings in one line."""
    return " ".join(f"{key}={value}" for key, value in settings.items())
