"""Do scores of augmentations by the teacher alone rank the students? `python -m experiments.teacher_scores FOLDERS`.

For every finished run of random augmentation below the folders (oracle, random, random_groups, calibrated) it computes
`hard_aug.diagnosis.teacher_stddev` of the run's teacher and augmentation, and for each task Spearman's rank correlation
of the scores with the students' accuracies. Students are not trained, and files are not changed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from experiments.methods.drawn_views import RandomViews
from experiments.methods.factory import build_method
from experiments.runs.saved import load_run
from experiments.training.files import RECORD, read_json, write_json
from hard_aug.diagnosis import teacher_stddev
from hard_aug.utils.text_table import aligned

#: Methods of random augmentation.
METHODS = ("oracle", "random", "random_groups", "calibrated")
#: Training images that are used, and views of each.
IMAGES, DRAWS = 512, 4
#: Runs below which a rank correlation says nothing.
FEWEST_RUNS = 5


def score(folder: Path) -> dict[str, Any] | None:
    """Return the scores of a run's augmentation, and the student's accuracy; None if it is no random augmentation."""
    run = load_run(folder)
    method = build_method(run.config.method, run.setup, run.teacher, run.student())
    if not isinstance(method, RandomViews):
        return None
    images = run.splits.train[slice(0, IMAGES)].materialize().images
    found = teacher_stddev(
        run.teacher, images, method.transform, method.policy, draws=DRAWS, max_images=None, progress=False
    )
    main = run.record["main"]
    return {
        "task": f"{run.config.data.name} {main}",
        "method": run.record["method"],
        "settings": run.record["settings"],
        "seed": run.record["seed"],
        "accuracy": run.record["student"]["accuracy"][main],
        "stddev_ratio": round(found.ratio, 5),
        "spread": round(found.spread, 5),
        "kept": round(found.kept, 5),
    }


def correlations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each task the rank correlation of each score with the accuracy, and the number of augmentations."""
    tasks = defaultdict(list)
    for row in rows:
        tasks[row["task"]].append(row)
    found = []
    for task, part in tasks.items():
        if len(part) < FEWEST_RUNS:
            continue
        accuracies = [row["accuracy"] for row in part]
        scores = {
            name: float(spearmanr([row[name] for row in part], accuracies).statistic)
            for name in ("stddev_ratio", "spread", "kept")
        }
        found.append({"task": task, "n": len(part), **{name: round(value, 3) for name, value in scores.items()}})
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of finished runs, at any depth")
    parser.add_argument("--seed", type=int, default=0, help="only runs of this seed (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write scores and correlations to this file")
    options = parser.parse_args(arguments)
    rows = []
    for folder in options.folders:
        if not folder.is_dir():
            parser.error(f"{folder}: no such folder; make runs with python -m experiments.train")
        for path in sorted(folder.rglob(RECORD)):
            record = read_json(path)
            if record.get("seed") != options.seed or record.get("method") not in METHODS:
                continue
            row = score(path.parent)
            if row is not None:
                rows.append(row)
                print(f"{row['task']}: {row['method']} {' '.join(row['settings'])}", file=sys.stderr)
    found = correlations(rows)
    if not found:
        parser.error(f"no task has {FEWEST_RUNS} runs of random augmentation with seed {options.seed}")
    head = ("task", "n", "T. stddev", "spread", "kept")
    print(aligned([head, *[tuple(str(value) for value in row.values()) for row in found]]))
    print("Spearman's rank correlation of each score with the students' accuracy on the task's main test set.")
    if options.json is not None:
        command = f"python -m experiments.teacher_scores {shlex.join(arguments or sys.argv[1:])}"
        write_json(options.json, {"command": command, "correlations": found, "scores": rows})


if __name__ == "__main__":
    main()
