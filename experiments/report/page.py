"""The self-contained HTML page, rendered from `page.html`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report.cells import Table
from experiments.report.curves import panels, style
from experiments.report.groups import HARD, Group
from experiments.report.tables import verdict

#: Figures in the folders of runs that are shown.
RUN_FIGURES = ("gallery.png", "policy.png")


def write_page(
    path: Path,
    sections: Sequence[tuple[str, Group, Sequence[Table]]],
    *,
    unfinished: Mapping[Path, dict[str, Any]],
    files: Sequence[str],
    figures: bool,
) -> None:
    """Write the page.

    Args:
        path: of the page.
        sections: title, group and tables.
        unfinished: status by folder.
        files: names of the files beside the page.
        figures: draw figures of saved students beside the page, and show them.
    """
    drawn: list[list[Path]] = [[] for _ in sections]
    if figures:
        from experiments.report.figures import draw  # requires everything that trains students

        suffixes = ["", *(f"-{number}" for number in range(2, len(sections) + 1))]
        drawn = [draw(group, path.parent, suffix) for suffix, (_, group, _) in zip(suffixes, sections, strict=False)]
    loader = FileSystemLoader(Path(__file__).parent, encoding="utf-8")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = [_section(*section, more) for section, more in zip(sections, drawn, strict=True)]
    text = environment.get_template("page.html").render(sections=shown, unfinished=unfinished, files=files)
    path.write_text(text, encoding="utf-8")


def _section(title: str, group: Group, tables: Sequence[Table], drawn: Sequence[Path]) -> dict[str, Any]:
    names = group.rows(without=())
    shown = {path.stem: path for path in drawn}
    for run in group.runs[group.runs.method == HARD].itertuples():
        folder = group.records[run.run].get("folder")
        if folder and run.name not in {key.partition(", ")[2] for key in shown}:  # of one seed
            shown |= {f"{Path(file).stem}, {run.name}": Path(folder) / file for file in RUN_FIGURES}
    return {
        "title": title,
        "verdict": verdict(group),
        "command": group.joined("command"),
        "tables": tables,
        "legend": [{"name": name, **style(name, names)} for name in names],
        "panels": panels(group),
        "figures": {
            name: base64.b64encode(file.read_bytes()).decode() for name, file in shown.items() if file.is_file()
        },
        "config": group.config,
    }
