"""Gather runs into tables and one HTML page: `python -m experiments.report PATHS [--json] [--markdown] [--html FILE]`.

| file | contents |
|---|---|
| `runs.py` | finds results, statuses and curves, and groups runs by configuration |
| `gathered.py` | reads tables that were written as JSON |
| `summary.py` | the numbers of a group: means and standard deviations over its seeds, differences |
| `costs.py` | network evaluations and seconds, the best baseline, and the cost of each row to match it |
| `trials.py` | the selected trial of each seed, and the one that clean validation images alone would select |
| `figures.py`, `captions.py`, `tables.py` | formatting of numbers, captions and tables |
| `curves.py`, `panels.py` | curves as SVG |
| `page.py`, `page.html` | the self-contained HTML page |
| `command.py` | the command line |
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
