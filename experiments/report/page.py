"""The self-contained HTML page, rendered from `page.html`."""

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

#: Index of the run whose figures are open; those of other seeds are collapsed.
SHOWN = 0


def page(
    groups: list[list[dict[str, Any]]],
    summaries: list[dict[str, Any]],
    unfinished: list[dict[str, Any]],
    *,
    command: str = "",
) -> str:
    """Return the whole page.

    Args:
        groups: runs by configuration, the result of `runs.group`; empty if only the summary is available.
        summaries: of each group, with `differs`.
        unfinished: runs without results.
        command: the command that made the runs.

    Raises:
        ValueError: a file of curves is invalid.
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
            {"seed": run["seed"], "shown": index == SHOWN, "figures": [_figure(path) for path in found]}
            for index, run in enumerate(members)
            if (found := runs.figures(Path(run[runs.FOLDER])))
        ],
        "policy": summary.get("policy", {}),
        "policy_by_seed": _policies(summary),
        "config": summary["config"],
    }


def _policies(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the learned distribution and the settings of each seed, if the seeds selected different trials."""
    selected = {one["seed"]: written(one["settings"]) for one in summary.get("selected_trials", {}).get("hard", [])}
    return [{**one, "settings": selected.get(one["seed"], "")} for one in summary.get("policy_by_seed", [])]


def _figure(path: Path) -> dict[str, str]:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return {"name": path.stem, "source": f"data:image/png;base64,{encoded}"}
