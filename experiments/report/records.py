"""Records of finished runs, from run folders and result files, and the frame of all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from experiments.training.files import read_json
from hard_aug.utils.files import write_text
from hard_aug.utils.hashing import cache_key

Record = dict[str, Any]

#: Name of the mean over `held_out_corruptions`, which are of kinds that the teacher was not trained on.
HELD_OUT = "held-out corruptions"
REQUIRED = ("method", "row", "settings", "seed", "group", "student", "teacher", "sets", "main")
#: Parts of a record that a result file contains once, in `configs`.
SHARED = ("group", "row", "teacher", "versions")
#: Keys that a result file does not contain in its runs.
NOT_WRITTEN = ("config", "folder", "file", "command", "note")
#: A policy with more parameters is neither listed nor written to a result file.
MAX_PARAMETERS = 12
#: What a result file contains of each row of a policy's summary, rounded to four digits.
SUMMARY = ("name", "frequency", "drawn")
#: Columns that identify a run.
RUN = ["group", "method", "row", "settings", "seed"]
#: Columns in %, and other numbers.
PERCENT = ["accuracy", "teacher", "validation_clean", "validation_main", "teacher_consistency"]
NUMBERS = ["steps", "evaluations", "seconds"]
#: Methods at the top and at the bottom of tables.
FIRST, LAST = ("supervised", "initial", "kd", "second_batch", "random"), ("oracle", "generated", "pool", "hard")


def gather(paths: Sequence[Path], *, required: bool = True) -> list[Record]:
    """Return the records in result files and in every `metrics.json` below folders.

    A record from a folder also has `folder`, one from a file `file` and the file's `command` and `note`.

    Raises:
        FileNotFoundError: a path does not exist, or there is no record and it is `required`.
        ValueError: a file is not valid.
    """
    found = [record for path in paths for record in (_from_folder(path) if path.is_dir() else _from_file(path))]
    if required and not found:
        names = ", ".join(map(str, paths))
        raise FileNotFoundError(f"no metrics.json below {names}; make runs with python -m experiments.train")
    return found


def _from_folder(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.rglob("metrics.json")):
        yield {**_checked(path, read_json(path)), "folder": str(path.parent)}


def _from_file(path: Path) -> Iterator[Record]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    found = read_json(path)
    if not isinstance(found.get("runs"), list) or not isinstance(found.get("configs"), dict):
        raise ValueError(f"{path} has no runs and configs; expected a file written by experiments.report --json")
    for run in found["runs"]:
        record = _checked(path, run)
        try:
            shared = {key: found["configs"][record[key]] for key in SHARED if key in record}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: configs has no {error}; write the file again with --json") from error
        described = {key: found[key] for key in ("command", "note") if found.get(key)}
        yield {**record, **shared, **described, "file": str(path)}


def _checked(path: Path, record: Any) -> Record:
    missing = [key for key in REQUIRED if not isinstance(record, dict) or key not in record]
    if missing:
        raise ValueError(f"{path}: a record lacks {', '.join(missing)}; expected one written by experiments.train")
    return dict(record)


def write_records(path: Path, records: Sequence[Record], *, command: str = "", note: str = "") -> None:
    """Write a result file: one run a line, what several runs share once in `configs`.

    The `config` of a run is left out: it consists of `group`, `row`, `settings` and `seed`. So is the learned
    distribution of a policy with many parameters; of a policy's summary the `SUMMARY` is kept. By default, command
    and note are those of the records.
    """
    configs: dict[str, Any] = {}
    runs = []
    for record in records:
        shared = {key: cache_key(record[key])[:8] for key in SHARED if key in record}
        configs |= {shared[key]: record[key] for key in shared}
        kept = {key: value for key, value in record.items() if key not in NOT_WRITTEN}
        if len(kept.get("policy", ())) > MAX_PARAMETERS:
            del kept["policy"]
        if "summary" in kept:
            rows = [{key: _rounded(row[key]) for key in SUMMARY} for row in kept["summary"]["rows"]]
            kept["summary"] = {**kept["summary"], "rows": rows}
        runs.append({**kept, **shared})
    head = {"command": command or joined(records, "command"), "note": note or joined(records, "note")}
    text = json.dumps({**head, "runs": runs, "configs": configs}, ensure_ascii=False)
    write_text(path, text.replace('}, {"method"', '},\n{"method"') + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def joined(records: Iterable[Record], key: str) -> str:
    """Return the different texts that records have under a key."""
    return "; ".join(dict.fromkeys(record[key] for record in records if record.get(key)))


def accuracies(record: Record, values: Mapping[str, float]) -> dict[str, float]:
    """Return accuracies in [0, 1] in the record's order, with the held-out corruptions' mean after the main set."""
    found: dict[str, float] = {}
    for name in record["sets"]:
        found[name] = values.get(name, math.nan)
        if name == record["main"] and record.get("held_out_corruptions"):
            found[HELD_OUT] = fmean(values.get(each, math.nan) for each in record["held_out_corruptions"])
    return found


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row for each run and test set, in the order of tables; equal runs are taken once.

    Columns: `run`, the number of the record; `group` and `row`, hashes; `name`, the row's label; `method`, `settings`,
    `trials`, `seed`, `set`; `PERCENT` and `NUMBERS`.

    Raises:
        ValueError: two different records of one run.
    """
    rows = []
    for number, record in enumerate(records):
        student, validation = record["student"], record["student"].get("validation", {})
        run = {"run": number, "settings": " ".join(record["settings"]), "trials": record.get("trials", 1)}
        run |= {"method": record["method"], "seed": record["seed"]}
        run |= {"group": cache_key(record["group"]), "row": cache_key(record["row"])}
        run |= {f"validation_{key}": validation.get(key) for key in ("clean", "main")}
        run |= {key: student.get(key) for key in (*NUMBERS, "teacher_consistency")}
        teacher = accuracies(record, record["teacher"].get("accuracy", {}))
        for name, value in accuracies(record, student["accuracy"]).items():
            rows.append({**run, "set": name, "accuracy": value, "teacher": teacher[name]})
    found = pd.DataFrame(rows)
    found[PERCENT + NUMBERS] = found[PERCENT + NUMBERS].astype(float)
    found[PERCENT] *= 100
    for (_, method, _, settings, seed, _), same in found.groupby([*RUN, "set"]):
        if same.accuracy.nunique() > 1:
            where = " and ".join(records[run].get("folder") or records[run].get("file", "") for run in same.run)
            raise ValueError(f"different runs of {method} {settings} with seed {seed}: {where}; give one of them")
    found = found.drop_duplicates([*RUN, "set"])
    found["name"] = _names(found, records)
    found["place"] = found.method.map(place)
    return found.sort_values(["place", "name", "settings", "seed"], kind="stable").drop(columns="place")


def place(method: str) -> int:
    """Return the place of a method's rows in tables; those of equal place are in alphabetical order."""
    places = {name: number for number, name in enumerate((*FIRST, "", *LAST))}
    return places.get(method, places[""])


def _names(found: pd.DataFrame, records: Sequence[Record]) -> pd.Series:
    """Return the method, with the settings in which several rows of a method differ: hard (policy=Generator)."""
    names = found.method.copy()
    for _, part in found.groupby(["group", "method"]):
        labels = distinguish({row: records[run]["row"] for row, run in zip(part.row, part.run, strict=True)})
        for row, label in labels.items():
            names[part.index[part.row == row]] += f" ({', '.join(label)})" if label else ""
    return names


def distinguish(nodes: Mapping[str, Any], key: str = "") -> dict[str, list[str]]:
    """Return for each node of configurations what it does not share with the others: `key=value`, classes by name."""
    kinds = {name: short(node) for name, node in nodes.items()}
    found = {name: [f"{key}={kind}"] if len(set(kinds.values())) > 1 else [] for name, kind in kinds.items()}
    for kind in set(kinds.values()):
        parts = {name: _items(nodes[name]) for name in nodes if kinds[name] == kind}
        for inner in dict.fromkeys(each for items in parts.values() for each in items):
            for name, texts in distinguish({name: part.get(inner) for name, part in parts.items()}, inner).items():
                found[name] += texts
    return found


def _items(node: Any) -> dict[str, Any]:
    if isinstance(node, list):
        return {str(number): value for number, value in enumerate(node) if isinstance(value, dict)}
    return node if isinstance(node, dict) else {}


def short(node: Any) -> str:
    """Return the name of a node's class, its parts' if it is a sequence of them, or a value's text."""
    if isinstance(node, dict):
        return "+".join(map(short, node.get("_args_", ()))) or str(node.get("_target_", "settings")).rpartition(".")[2]
    if isinstance(node, list):
        return ",".join(map(short, node))
    return "none" if node is None else f"{node:.10g}" if isinstance(node, float) else str(node)
