"""The page: one HTML file that needs no other, from `page.html`."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report import runs
from experiments.report.captions import caption, heading
from experiments.report.panels import panels
from experiments.report.tables import tables, written

#: Pictures of this one are shown, those of other seeds behind a click.
SHOWN = 0


def page(
    groups: list[list[dict[str, Any]]],
    summaries: list[dict[str, Any]],
    unfinished: list[dict[str, Any]],
    *,
    command: str = "",
) -> str:
    """The whole page.

    Args:
        groups: runs by configuration, as `runs.group` gives them; none where only the summary is at hand.
        summaries: of each, with what distinguishes it.
        unfinished: runs without results.
        command: that made the runs.

    Raises:
        ValueError: curves that cannot be read.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        groups=[_group(members, summary) for members, summary in zip(groups, summaries, strict=True)],
        unfinished=unfinished,
        command=command,
    )


def _group(members: list[dict[str, Any]], summary: dict[str, Any]) -> dict[str, Any]:
    first, *others = tables(summary)
    return {
        "title": heading(summary),
        "caption": caption({**summary, "differs": {}}),
        "differs": summary.get("differs", {}),
        "command": summary.get("command", ""),
        "tables": [dataclasses.replace(first, title=""), *others],
        **panels(members, summary),
        "galleries": [
            {"seed": run["seed"], "shown": index == SHOWN, "pictures": [_picture(path) for path in found]}
            for index, run in enumerate(members)
            if (found := runs.pictures(Path(run[runs.FOLDER])))
        ],
        "policy": summary.get("policy", {}),
        "policy_by_seed": _policies(summary),
        "config": summary["config"],
    }


def _policies(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """What each seed learned, where they did not choose the same trial: with the settings that it chose."""
    chosen = {one["seed"]: written(one["settings"]) for one in summary.get("chosen", {}).get("hard", [])}
    return [{**one, "settings": chosen.get(one["seed"], "")} for one in summary.get("policy_by_seed", [])]


def _picture(path: Path) -> dict[str, str]:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return {"name": path.stem, "source": f"data:image/png;base64,{encoded}"}
