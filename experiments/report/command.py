"""The command: `python -m experiments.report PATHS [--json FILE] [--markdown] [--html FILE]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.report import gathered
from experiments.report.captions import distinguish, heading
from experiments.report.figures import text
from experiments.report.runs import find, group, unfinished
from experiments.report.summary import summarise
from experiments.report.tables import tables, written
from experiments.runs.status import write_json

#: A policy with more parameters is not printed; the JSON has all of them.
MAX_LISTED = 12


def line(one: dict[str, Any]) -> str:
    """Return one line on a run that is not finished."""
    overrides = " ".join(one["overrides"] or ())
    error = one["error"]
    what = f"{error['type']}: {error['message']}" if error else ""
    return " | ".join(part for part in (one["state"], one["folder"], overrides, what) if part)


def main(arguments: list[str] | None = None) -> None:
    """Print the tables and write the requested files; exit with a message if nothing is found."""
    options = argparse.ArgumentParser(
        prog="python -m experiments.report", description="Gather runs of experiments.train into tables over seeds."
    )
    options.add_argument(
        "paths", nargs="+", type=Path, help="folders, searched recursively for metrics.json, or files written by --json"
    )
    options.add_argument("--json", type=Path, help="write the numbers of the tables to this file")
    options.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options.add_argument("--html", type=Path, help="write a page with tables, curves and figures to this file")
    options.add_argument("--command", default="", help="the command that made the runs, recorded in JSON and page")
    chosen = options.parse_args(arguments)
    files = [path for path in chosen.paths if path.is_file()]
    folders = [path for path in chosen.paths if path not in files]
    try:
        groups, without = _of_runs(folders) if folders else ([], [])
        summaries = [summarise(members) for members in groups]
        distinguish(summaries)
        for found, missing in map(gathered.read, files):
            groups += [[] for _ in found]  # without their runs: no curves and no figures
            summaries += found
            without += missing
        if chosen.html:
            from experiments.report.page import page

            html = page(groups, summaries, without, command=chosen.command)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    console = Console()
    for summary in summaries:
        if chosen.markdown and len(summaries) > 1:
            print(f"## {heading(summary)}\n")
        _print(summary, console, as_markdown=chosen.markdown)
    if without:
        console.print(f"{len(without)} run{'s' * (len(without) > 1)} without results:", style="bold")
        for one in without:
            console.print(f"  {line(one)}", soft_wrap=True, markup=False, highlight=False)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(chosen.json, {"command": chosen.command, "groups": summaries, "unfinished": without})
        console.print(f"wrote {chosen.json}")
    if chosen.html:
        chosen.html.parent.mkdir(parents=True, exist_ok=True)
        chosen.html.write_text(html)
        console.print(f"wrote {chosen.html}")


def _of_runs(folders: list[Path]) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Return runs grouped by configuration, and those without results."""
    without = unfinished(folders)
    try:
        return group(find(folders)), without
    except FileNotFoundError:
        if not without:
            raise
        return [], without


def _print(summary: dict[str, Any], console: Console, *, as_markdown: bool) -> None:
    if as_markdown and summary.get("command"):
        print(f"`{summary['command']}`\n")
    for one in tables(summary):
        if as_markdown:
            print(f"{one.markdown()}\n")
        elif not one.folded:
            table = Table(*one.head, title=Text(one.title))
            for row in one.rows:
                table.add_row(*row)
            console.print(table)
    policy = summary.get("policy", {})
    listed = policy if len(policy) <= MAX_LISTED else {}
    mark = "-" if as_markdown else " "
    if as_markdown and listed:
        print("Standard deviation of the parameters drawn by HARD's policy:\n")
    for name, values in listed.items():
        pixels = f" = {text(values['sd_pixels'])} px" if "sd_pixels" in values else ""
        print(f"{mark} {name}: std {values['sd']['mean']:.3f}{pixels} ({values['unit']})")
    if "policy_by_seed" in summary:
        for one in summary.get("selected_trials", {}).get("hard", []):
            print(f"{mark} hard, seed {one['seed']}: {written(one['settings'])}")
    if as_markdown:
        print()
