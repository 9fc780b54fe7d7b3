"""The command `python -m experiments.report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from experiments.configuration.command import write_any_text
from experiments.report.captions import titles
from experiments.report.groups import HARD, split, write_selection
from experiments.report.overview import overview
from experiments.report.records import gather, joined, write_records
from experiments.report.tables import Table, accuracy, pivot, tables, verdict
from experiments.runs import status
from hard_aug.utils.files import write_text


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description="Tables of finished runs.")
    add = parser.add_argument
    add("paths", nargs="+", type=Path, help="folders, searched for metrics.json, and files written by --json")
    add("--json", type=Path, metavar="FILE", help="write the records to a file that can be read again")
    add("--csv", type=Path, metavar="FILE", help="write a line for each run and test set; of an overview, task and row")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--html", type=Path, metavar="FILE", help="write a page, and its JSON and CSV beside it")
    add("--figures", action="store_true", help="with --html: a gallery and a diagnosis of the saved students")
    add("--overview", action="store_true", help="one table of all methods on all tasks, in place of one for each task")
    add("--select", type=Path, metavar="FILE", help="write the selected settings, for settings_from=FILE")
    add("--select-on", choices=("clean", "main", "sum"), help="validation accuracy that trials are selected by")
    example = "accuracy of hard by settings: augmenter.objective augmenter.policy,augmenter.schedule"
    add("--pivot", nargs=2, metavar=("ROWS", "COLUMNS"), help=example)
    add("--command", default="", help="the command that made the runs, for --json")
    add("--note", default="", help="a note on the runs, for --json")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Print the tables and write the requested files; exit with one line if that is not possible."""
    write_any_text()
    try:
        _report(parser().parse_args(arguments))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


def _report(chosen: argparse.Namespace) -> None:
    if chosen.figures and not chosen.html:
        raise ValueError("--figures are shown on a page; add --html report.html")
    if chosen.overview and chosen.pivot:
        raise ValueError("--overview and --pivot are different tables; leave one out")
    unfinished = {
        folder: one
        for folder, one in status.find([path for path in chosen.paths if path.is_dir()]).items()
        if one["state"] != status.FINISHED and not (one.get("error") or {}).get("discard")  # a mistyped command
    }
    records = gather(chosen.paths, required=not unfinished)
    groups = split(records, chosen.select_on)
    named, found = titles(groups), [tables(group) for group in groups]
    if chosen.pivot:
        others = [accuracy(group).cells.drop(index=group.rows(only=HARD)) for group in groups]
        found = [
            [pivot(group, *chosen.pivot), Table("Other methods.", one)]
            for group, one in zip(groups, others, strict=True)
        ]
    if chosen.select:
        if chosen.select.is_dir():
            raise ValueError(f"--select {chosen.select} is a folder; expected a file, such as settings.yaml")
        chosen.select.parent.mkdir(parents=True, exist_ok=True)
        write_selection(chosen.select, groups, chosen.paths)
    whole = overview(groups) if chosen.overview else None
    sections = list(zip(named, groups, found, strict=True))
    printed = [(title, group.joined("command"), verdict(group), shown) for title, group, shown in sections]
    if whole:
        printed = [(whole.title, joined(records, "command"), whole.verdict, whole.tables)]
    for title, command, sentence, shown in printed:
        parts = [f"## {title}", *(f"`{command}`" for _ in command[:1]), *(f"**{sentence}**" for _ in sentence[:1])]
        parts += [
            one.markdown() if chosen.markdown else one.plain() for one in shown if chosen.markdown or not one.folded
        ]
        print("\n\n".join(parts) + "\n")
    for folder, one in unfinished.items():
        print(f"{one['state']}: {folder}", file=sys.stderr)
    for path in filter(None, (chosen.select, chosen.json, chosen.csv, chosen.html)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if chosen.html:
        chosen.json, chosen.csv = (
            path or chosen.html.with_suffix(suffix) for path, suffix in ((chosen.json, ".json"), (chosen.csv, ".csv"))
        )
        from experiments.report.page import write_page  # requires matplotlib

        files = [path.name for path in (chosen.csv, chosen.json) if path.parent == chosen.html.parent]
        write_page(chosen.html, sections, overview=whole, unfinished=unfinished, files=files, figures=chosen.figures)
    if chosen.json:
        write_records(chosen.json, records, command=chosen.command, note=chosen.note)
    if chosen.csv:
        lines = [whole.csv()] if whole else [group.csv(title) for title, group in zip(named, groups, strict=True)]
        write_text(chosen.csv, pd.concat([pd.DataFrame(), *lines]).to_csv(index=False))
    for path in filter(None, (chosen.select, chosen.json, chosen.csv, chosen.html)):
        print(f"wrote {path}", file=sys.stderr)
