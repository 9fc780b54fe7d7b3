"""Records of runs with numbers that can be checked by hand, and folders with them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.training.files import write_json

#: One transparent pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
GROUP = {
    "data": {"name": "mnist5k"},
    "task": {"_target_": "experiments.tasks.Shift", "distance": 3},
    "teacher": {"train_shift": 3},
    "student": {"_target_": "experiments.models.MLPStudent"},
    "steps": 100,
    "batch_size": 64,
}
AFFINE, COLOR = ({"_target_": f"hard_aug.transforms.{name}"} for name in ("Affine", "Color"))


def record(
    method: str = "kd",
    seed: int = 0,
    main: float = 0.5,
    *,
    validation: tuple[float, float] | None = None,
    settings: Sequence[str] = (),
    row: dict[str, Any] | None = None,
    group: dict[str, Any] | None = None,
    clean: float = 0.9,
    teacher: float = 0.9,
    **more: Any,
) -> dict[str, Any]:
    """Return the record of a run on the sets clean and shifted, and parts of it, `student` with further keys."""
    student = {"accuracy": {"clean": clean, "shifted": main}, "seconds": 2.0 + seed, "steps": 100, "evaluations": 1000}
    student["validation"] = {} if validation is None else dict(zip(("clean", "main"), validation, strict=True))
    return {
        "method": method,
        "settings": list(settings),
        "trials": 1,
        "seed": seed,
        "student": {**student, **more.pop("student", {})},
        "teacher": {"accuracy": {"clean": 0.95, "shifted": teacher}, "seconds": 9.0, "cached": False},
        "sets": ["clean", "shifted"],
        "main": "shifted",
        "size": 28,
        "device": "CPU",
        "versions": {"torch": "2"},
        "config": {"seed": seed},
        "group": GROUP if group is None else group,
        "row": {"name": method, **(row or {})},
        **more,
    }


def hard(seed: int = 0, main: float = 0.8, *, policy: str = "Gaussian", **more: Any) -> dict[str, Any]:
    """Return a record of HARD with a learned policy, a curve of two points and teacher consistency."""
    parts = {"policy": f"hard_aug.policies.{policy}", "objective": "hard_aug.objectives.KL"}
    augmenter = {"transform": AFFINE, **{key: {"_target_": target} for key, target in parts.items()}}
    learned = {"mean": 0.0, "sd": 0.1, "unit": "fraction of width", "range": [-0.25, 0.25], "sd_pixels": 2.8}
    curve = [
        {"step": s, "evaluations": 20 * s, "seconds": s / 50, "accuracy": {"clean": 0.9, "shifted": a}}
        for s, a in ((50, main - 0.1), (100, main))
    ]
    student = {"teacher_consistency": 0.75, "curve": curve, "evaluations": 2000, **more.pop("student", {})}
    more = {"row": {"augmenter": augmenter}, "policy": {"translation_x": learned}, **more}
    return record("hard", seed, main, student=student, **more)


def write_runs(folder: Path, *records: dict[str, Any], state: str = "finished") -> Path:
    """Write a folder for each run, of HARD with curves and figures, and return `folder`."""
    for number, one in enumerate(records):
        run = folder / f"{number}-{one['method']}"
        run.mkdir(parents=True)
        write_json(run / "metrics.json", one)
        write_json(run / "status.json", {"state": state, "started": "2026-01-01T00:00:00+00:00", "overrides": []})
        if one["method"] == "hard":
            lines = [f"{step},{name},{value}" for step in (10, 20) for name, value in scalars(step).items()]
            (run / "curves.csv").write_text("\n".join(["step,name,value", *lines, ""]), encoding="utf-8")
            for name in ("gallery.png", "policy.png"):
                (run / name).write_bytes(PNG)
    return folder


def scalars(step: int) -> dict[str, float]:
    """Return what is logged after a step; the multiplier is constant."""
    return {
        "loss": 1 / step,
        "teacher_consistency": step / 100,
        "multiplier": 8.0,
        "policy/translation_x_sd": step / 100,
    }
