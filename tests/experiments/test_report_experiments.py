"""The named experiments on tiny data in the real layout, including the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torchvision import datasets

from experiments import report, train
from experiments.configuration.students import student_specs
from experiments.data import sources as data
from experiments.report.runs import HELD_OUT
from tests.experiments.test_data_sources import WNIDS, write_cifar
from tests.experiments.test_experiments_configs import NAMES, composed
from tests.helpers.picture_files import write_classes

#: In place of all rows, which another experiment tests.
FEW = "students=[kd,random,hard]"
#: Overrides that make each a matter of seconds; the trials are the experiment's own.
SMALL: dict[str, list[str]] = {
    "toy_shift": ["batch_size=16"],
    "toy_rotation": ["batch_size=16"],
    "fashion_robust": ["data.name=mnist5k", "data.fraction=1.0", "batch_size=16"],
    "convergence": [
        "data.name=mnist5k",
        "data.fraction=1.0",
        "batch_size=16",
        "eval_every=1",
        "steps=2",
        "logger=csv",
        FEW,
    ],
    "cifar10": ["student.width=4", "teacher.model.width=4", "task.severities=[1]", "task.images=2"],
    "cifar100": ["student.width=4", "teacher.model.width=4", "task.severities=[1]", "task.images=2", FEW],
    "imagenet": [
        "data.size=32",
        "data.resize=36",
        "teacher.name=test_resnet.r160_in1k",
        "teacher.pretrained=false",
        "student.name=test_resnet.r160_in1k",
        "steps=2",
    ],
}
KINDS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_row_and_trial_is_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = [f"teacher_cache={tmp_path}/teachers", "threads=1", "teacher.steps=1", "teacher.batch_size=4"]
    words += ["steps=1", "batch_size=4", "logger=[]", "log_every=1", *SMALL[name]]
    if name in KINDS:
        monkeypatch.setattr(data, "HELD_OUT", 20)
        write_cifar(tmp_path / "data", KINDS[name], monkeypatch, train=60)
        words += [f"data.root={tmp_path}/data", "data.download=false", f"+task.cache={tmp_path}/corruptions"]
    elif name == "imagenet":
        for part, count in (("train", 5), ("val", 2)):
            write_classes(tmp_path / "data" / part, WNIDS, count, suffix=".JPEG", size=(40, 36))
        words += [f"data.root={tmp_path}/data"]
    else:
        whole, held = data._mnist5k(), slice(0, 20)
        few = data.Splits(whole.train, whole.validation[held], whole.test[held], whole.classes)
        monkeypatch.setattr(data, "_mnist5k", lambda: few)
    monkeypatch.setattr(train, "DIAGNOSIS_IMAGES", 6)
    config = composed(f"experiment={name}", *words)
    metrics = train.run(config, tmp_path / "run", quiet=True, figures=name == "toy_shift")
    data._from_torchvision.cache_clear()

    rows = {spec.row for spec in student_specs(config)}
    assert rows <= set(metrics["students"])
    out = tmp_path / "out"
    report.main([str(tmp_path / "run"), "--html", f"{out}.html", "--json", f"{out}.json", "--markdown"])
    printed, page = capsys.readouterr().out, out.with_suffix(".html").read_text()
    group = json.loads(out.with_suffix(".json").read_text())["groups"][0]
    for row in rows:
        assert printed.count(f"| {row} |") >= 2  # accuracy and cost
        assert f"<td>{row}</td>" in page
        assert group["evaluations"][row]["mean"] > 0
    held_out = {HELD_OUT} if "held_out_corruptions" in metrics else set()
    assert set(group["best_baseline"]) == {metrics["sets"][0], metrics["main"]} | held_out
    assert bool(group["reached"]) == (name == "convergence")
    assert group["teacher_training"].startswith("trained on")
    if config.trials is not None:
        assert {row: len(those) for row, those in group["trials"].items()} == dict.fromkeys(config.students, 2)
        assert "(select_on=" in printed
