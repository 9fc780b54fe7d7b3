"""Read the folders of runs: results, statuses, curves and figures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.runs import status

#: The key of the run's folder in its results.
FOLDER = "folder"
#: Name of the mean over the sets in `held_out_corruptions`, which are of a kind that the teacher was not trained on.
HELD_OUT = "held-out corruptions"
FIGURES = ("gallery.png", "policy.png", "diagnosis.png")


def find(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the contents of every `metrics.json` below the folders, each with its `folder`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one of them is invalid.
    """
    paths = sorted({path for folder in folders for path in folder.rglob("metrics.json")})
    if not paths:
        raise FileNotFoundError(
            f"no metrics.json below {', '.join(map(str, folders))}; make runs with python -m experiments.train"
        )
    return [_results(path) for path in paths]


def _results(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        missing = [key for key in ("teacher", "students", "sets", "main", "seed", "config") if key not in found]
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); remove it and start its run again") from error
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: it was not written by experiments.train")
    if found.get("held_out_corruptions"):
        try:
            found = _with_held_out(found)
        except KeyError as error:
            raise ValueError(f"{path}: held_out_corruptions contains {error}, which has no accuracy there") from error
    return {**found, FOLDER: str(path.parent)}


def _with_held_out(run: dict[str, Any]) -> dict[str, Any]:
    """Return the results with the set `HELD_OUT` added after the main one, in every row, trial and point of a curve."""
    names = run["held_out_corruptions"]

    def added(row: dict[str, Any]) -> dict[str, Any]:
        more = {"curve": [added(point) for point in row["curve"]]} if row.get("curve") else {}
        return {**row, HELD_OUT: round(fmean(row[name] for name in names), 5), **more}

    after = run["sets"].index(run["main"]) + 1
    trials = {name: [added(one) for one in those] for name, those in run.get("trials", {}).items()}
    return {
        **run,
        "teacher": added(run["teacher"]),
        "students": {name: added(row) for name, row in run["students"].items()},
        "sets": [*run["sets"][:after], HELD_OUT, *run["sets"][after:]],
        **({"trials": trials} if trials else {}),
    }


def group(runs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group runs by configuration without the seed, sorted by seed.

    Raises:
        ValueError: two runs have the same configuration and seed.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        config = {key: value for key, value in run["config"].items() if key != "seed"}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    for members in groups.values():
        members.sort(key=lambda run: run["seed"])
        seeds = [run["seed"] for run in members]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"several runs of one configuration with seeds {seeds}; expected the folders of one sweep")
    return list(groups.values())


def unfinished(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the runs that are not finished, as `folder`, `state`, `started`, `overrides` and `error`.

    The state `running` includes runs that were killed.

    Raises:
        ValueError: a status is invalid.
    """
    return [
        {"folder": str(folder), **{key: one.get(key) for key in ("state", "started", "overrides", "error")}}
        for folder, one in status.find(folders).items()
        if one["state"] != status.FINISHED
    ]


def curves(folder: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the scalars of a run by student and name, as `(step, value)` sorted by step; empty without curves.

    Reads `curves/<student>.csv` with the columns `step`, `name` and `value`. Of a step that was written twice, by a run
    that was killed and resumed, the last value is used.

    Raises:
        ValueError: a file has other columns.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    base = folder / "curves"
    for path in sorted(base.rglob("*.csv")):
        student = path.relative_to(base).with_suffix("").as_posix()
        points: dict[str, dict[float, float]] = {}
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if not {"step", "name", "value"} <= set(rows.fieldnames or ()):
                raise ValueError(f"{path} has the columns {rows.fieldnames}: expected step, name and value")
            for row in rows:
                try:
                    step, value = float(row["step"]), float(row["value"])
                except (TypeError, ValueError):  # the last line of a run that was killed while writing
                    continue
                if math.isfinite(value):
                    points.setdefault(row["name"], {})[step] = value
        found[student] = {name: sorted(values.items()) for name, values in points.items()}
    return found


def figures(folder: Path) -> list[Path]:
    """Return the figures of a run, in display order."""
    return [folder / name for name in FIGURES if (folder / name).is_file()]
