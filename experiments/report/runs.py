"""What runs have left in their folders: results, statuses, curves and pictures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments import status

#: Where a run's results say which folder they are from.
FOLDER = "folder"
#: The mean over the sets that `novel_sets` of the results names, those of a kind that the teacher was not trained on.
NOVEL = "new corruptions"
PICTURES = ("gallery.png", "policy.png", "diagnosis.png")


def find(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What all `metrics.json` below the folders hold, each with its `folder`.

    Raises:
        FileNotFoundError: none is there.
        ValueError: one that cannot be read.
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
        raise ValueError(f"{path} cannot be read ({error}); remove it and start its run again") from error
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: it is not of experiments.train")
    if found.get("novel_sets"):
        try:
            found = _with_novel(found)
        except KeyError as error:
            raise ValueError(f"{path}: novel_sets names {error}, which has no accuracy there") from error
    return {**found, FOLDER: str(path.parent)}


def _with_novel(run: dict[str, Any]) -> dict[str, Any]:
    """Results with a further set after the main one, in every row, trial and point of a curve: `NOVEL`."""
    names = run["novel_sets"]

    def added(row: dict[str, Any]) -> dict[str, Any]:
        more = {"curve": [added(point) for point in row["curve"]]} if row.get("curve") else {}
        return {**row, NOVEL: round(fmean(row[name] for name in names), 5), **more}

    after = run["sets"].index(run["main"]) + 1
    trials = {name: [added(one) for one in those] for name, those in run.get("trials", {}).items()}
    return {
        **run,
        "teacher": added(run["teacher"]),
        "students": {name: added(row) for name, row in run["students"].items()},
        "sets": [*run["sets"][:after], NOVEL, *run["sets"][after:]],
        **({"trials": trials} if trials else {}),
    }


def group(runs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs by configuration without the seed, in the order of the seeds.

    Raises:
        ValueError: two runs of one configuration with one seed.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        config = {key: value for key, value in run["config"].items() if key != "seed"}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    for members in groups.values():
        members.sort(key=lambda run: run["seed"])
        seeds = [run["seed"] for run in members]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"several runs of one configuration with seeds {seeds}; give the folders of one sweep")
    return list(groups.values())


def unfinished(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The runs that failed, were stopped, or have not come to their end, as `folder`, `state`, `overrides`, `error`.

    A run that was killed cannot say so: `running` is one that may be running.

    Raises:
        ValueError: a status that cannot be read.
    """
    return [
        {"folder": str(folder), **{key: one.get(key) for key in ("state", "started", "overrides", "error")}}
        for folder, one in status.find(folders).items()
        if one["state"] != status.FINISHED
    ]


def curves(folder: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The scalars of a run: by student and name, `(step, value)` in the order of the steps; empty without curves.

    Reads `curves/<student>.csv` with the columns `step`, `name` and `value`; a step that is written twice, by a run
    that was killed and went on, counts as it was last.

    Raises:
        ValueError: a file with other columns.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    base = folder / "curves"
    for path in sorted(base.rglob("*.csv")):
        student = path.relative_to(base).with_suffix("").as_posix()
        points: dict[str, dict[float, float]] = {}
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if not {"step", "name", "value"} <= set(rows.fieldnames or ()):
                raise ValueError(f"{path} has the columns {rows.fieldnames}: wanted step, name and value")
            for row in rows:
                try:
                    step, value = float(row["step"]), float(row["value"])
                except (TypeError, ValueError):  # the last line of a run that was killed while it wrote
                    continue
                if math.isfinite(value):
                    points.setdefault(row["name"], {})[step] = value
        found[student] = {name: sorted(values.items()) for name, values in points.items()}
    return found


def pictures(folder: Path) -> list[Path]:
    """The pictures that a run has left, in the order in which they are looked at."""
    return [folder / name for name in PICTURES if (folder / name).is_file()]
