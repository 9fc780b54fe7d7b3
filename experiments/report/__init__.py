"""Runs gathered into tables and one page: `python -m experiments.report FOLDERS [--json] [--markdown] [--html FILE]`.

| file | what it does |
|---|---|
| `runs.py` | finds results, statuses and curves, and groups runs by configuration |
| `tables.py` | means and deviations over seeds, as figures and as Markdown |
| `curves.py` | pictures of curves, as SVG |
| `page.py`, `page.html` | the page, which needs no other file |
| `command.py` | the command |
"""

from experiments.report.command import main
from experiments.report.runs import find, group, unfinished
from experiments.report.tables import caption, cells, distinguish, markdown, spread, summarise

__all__ = [
    "caption",
    "cells",
    "distinguish",
    "find",
    "group",
    "main",
    "markdown",
    "spread",
    "summarise",
    "unfinished",
]
