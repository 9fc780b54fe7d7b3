"""Runs gathered into tables and one page: `python -m experiments.report PATHS [--json] [--markdown] [--html FILE]`.

| file | what it does |
|---|---|
| `runs.py` | finds results, statuses and curves, and groups runs by configuration |
| `gathered.py` | reads tables that were written as JSON before |
| `summary.py` | the figures of a group: means and deviations over its seeds, differences |
| `costs.py` | evaluations and seconds, the best baseline, and what each row spends until it is as good |
| `trials.py` | which trial each seed chose, and which one clean validation images alone would have chosen |
| `figures.py`, `captions.py`, `tables.py` | the same, written |
| `curves.py`, `panels.py` | pictures of curves, as SVG |
| `page.py`, `page.html` | the page, which needs no other file |
| `command.py` | the command |
"""

from experiments.report.captions import caption, distinguish
from experiments.report.command import main
from experiments.report.figures import spread
from experiments.report.runs import find, group, unfinished
from experiments.report.summary import summarise
from experiments.report.tables import cells, tables

__all__ = [
    "caption",
    "cells",
    "distinguish",
    "find",
    "group",
    "main",
    "spread",
    "summarise",
    "tables",
    "unfinished",
]
