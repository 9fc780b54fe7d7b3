"""The self-contained HTML page, rendered from `page.html`."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report import overview_figure
from experiments.report.curves import panels, style
from experiments.report.groups import HARD, Group
from experiments.report.overview import Overview
from experiments.report.tables import Table, verdict
from hard_aug.utils.files import write_text

#: Figures in the folders of runs that are shown.
RUN_FIGURES = ("gallery.png", "policy.png", "summary.png")


def write_page(
    path: Path,
    sections: Sequence[tuple[str, Group, Sequence[Table]]],
    *,
    overview: Overview | None = None,
    unfinished: Mapping[Path, dict[str, Any]],
    files: Sequence[str],
    figures: bool,
) -> None:
    """Write the page of groups with their titles and tables, and of unfinished runs with their status.

    An `overview` comes first. `files` beside the page are linked. With `figures`, those of saved students are drawn
    beside the page and shown, and that of the overview is written as `overview.png`.
    """
    drawn: list[dict[str, Path]] = [{} for _ in sections]
    if figures:
        from experiments.report.figures import draw  # requires everything that trains students

        suffixes = ["", *(f"-{number}" for number in range(2, len(sections) + 1))]
        drawn = [draw(group, path.parent, suffix) for suffix, (_, group, _) in zip(suffixes, sections, strict=False)]
        if overview:
            overview_figure.draw_file(overview, path.parent / "overview.png")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["link"] = lambda name: quote(os.fsencode(name))  # Jinja's own takes valid UTF-8 only
    shown = [_section(*section, more) for section, more in zip(sections, drawn, strict=True)]
    first = {"title": overview.title, "verdict": overview.verdict, "tables": overview.tables} if overview else None
    if overview and first:
        first |= {"figure": overview_figure.svg(overview), "caption": overview_figure.CAPTION}
    text = environment.get_template("page.html").render(
        overview=first, sections=shown, unfinished=unfinished, files=files
    )
    write_text(path, text)


def _section(title: str, group: Group, tables: Sequence[Table], drawn: dict[str, Path]) -> dict[str, Any]:
    names, figures = group.rows(without=()), dict(drawn)
    for run in group.runs[group.runs.method == HARD].drop_duplicates("name").itertuples():
        folder = Path(group.records[run.run].get("folder", "no folder"))
        for file in RUN_FIGURES[bool(drawn) :]:  # the drawn gallery has more students
            figures[f"{file.partition('.')[0]} of {run.name}, seed {run.seed}"] = folder / file
    return {
        "title": title,
        "verdict": verdict(group),
        "command": group.joined("command"),
        "tables": tables,
        "legend": [{"name": name, **style(name, names)} for name in names],
        "panels": panels(group),
        "figures": {name: b64encode(file.read_bytes()).decode() for name, file in figures.items() if file.is_file()},
        "config": group.config,
    }
