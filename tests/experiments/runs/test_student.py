"""One run: its record and files, repeated, stopped and resumed, and with each of the settings that change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.configuration.identity import group_identity, resolved, run_identity
from experiments.methods import Distillation
from experiments.runs import student as module
from experiments.runs.student import run
from experiments.runs.summary import summary_table
from experiments.training import distributed
from tests.helpers.engine_parts import small_config
from tests.helpers.stops import stopping_at

Record = dict[str, Any]
HARD = ("eval_every=2", "logger=[csv,tensorboard]", "trainer.ema=0.5")


@pytest.fixture(scope="module")
def hard(cache: Path) -> tuple[Path, Record]:
    """The folder and the record of a run with the method `hard` and an accuracy curve."""
    return cache / "hard", run(small_config(cache, *HARD), cache / "hard")


def without_time(record: Any) -> Any:
    """Return a record without what may differ between equal runs."""
    if isinstance(record, dict):
        return {key: without_time(value) for key, value in record.items() if key not in ("seconds", "cached")}
    return [without_time(value) for value in record] if isinstance(record, list) else record


def equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return torch.equal(ours, theirs) if isinstance(ours, Tensor) else ours == theirs or ours != ours


def test_the_record_has_the_documented_keys(hard: tuple[Path, Record], cache: Path) -> None:
    record = json.loads((hard[0] / "metrics.json").read_text())
    assert record == json.loads(json.dumps(hard[1]))
    config = small_config(cache, *HARD)
    keys = ["method", "settings", "trials", "seed", "student", "teacher", "sets", "main", "size", "test_images"]
    assert list(record) == [*keys, "policy", "summary", "device", "versions", "config", "group", "row"]
    chosen = {key: record[key] for key in ("method", "settings", "trials", "seed", "sets", "main", "size")}
    assert chosen == {
        "method": "hard",
        "settings": [],
        "trials": 1,
        "seed": 0,
        "sets": ["clean", "shifted", "uniform"],
        "main": "shifted",
        "size": 28,
    }
    student, teacher = record["student"], record["teacher"]
    keys = ["accuracy", "validation", "seconds", "steps", "batch_size", "evaluations", "teacher_consistency", "curve"]
    assert list(student) == [*keys, "policy_updates"]
    assert list(teacher) == ["accuracy", "seconds", "cached", "multiply_adds"]
    for part in (student, teacher):
        assert list(part["accuracy"]) == record["sets"]
        assert all(0 <= value <= 1 for value in part["accuracy"].values())
        assert part["seconds"] > 0
    assert list(student["validation"]) == ["clean", "main"]
    assert (student["steps"], teacher["cached"]) == (6, False)
    assert student["policy_updates"] == 1
    assert student["evaluations"] > 6 * 16 * 8  # two views, and the policy update
    assert 0 <= student["teacher_consistency"] <= 1
    shift = record["policy"]["translation_x"]
    assert list(shift) == ["mean", "sd", "unit", "range", "sd_pixels"]
    assert shift["sd_pixels"] == pytest.approx(28 * shift["sd"])
    assert "sd_pixels" not in record["policy"]["rotation"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert record["device"].startswith("CPU")
    assert record["config"] == run_identity(config)
    assert record["group"] == group_identity(config)
    assert record["row"] == resolved(config.method)


def test_a_run_writes_the_documented_files(hard: tuple[Path, Record]) -> None:
    folder, record = hard
    figures = {"gallery.png", "policy.png", "summary.png"}
    names = {"config.yaml", "metrics.json", "student.pt", "curves.csv", "tensorboard", *figures}
    assert {path.name for path in folder.iterdir()} == names
    for name in figures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    rows = [line.split(",") for line in (folder / "curves.csv").read_text().splitlines()[1:]]
    assert [int(step) for step, name, _ in rows if name == "loss"] == [2, 4, 6]
    assert {"loss", "teacher_consistency", "multiplier", "policy/rotation_sd"} <= {name for _, name, _ in rows}
    state = torch.load(folder / "student.pt", weights_only=True)
    assert set(state) == {"config", "model", "method", "history"}
    assert state["config"] == record["config"]


def test_the_curve_ends_with_the_final_accuracy(hard: tuple[Path, Record]) -> None:
    """Which is that of the averaged weights."""
    student = hard[1]["student"]
    assert [point["step"] for point in student["curve"]] == [2, 4, 6]
    last = student["curve"][-1]
    assert last["accuracy"] == student["accuracy"]
    assert last["evaluations"] == student["evaluations"]
    for key in ("evaluations", "seconds"):
        assert [point[key] for point in student["curve"]] == sorted(point[key] for point in student["curve"])


def test_the_summary_shows_the_accuracies(hard: tuple[Path, Record]) -> None:
    table = summary_table(hard[1])
    assert [column.header for column in table.columns[1:4]] == ["clean", "shifted", "uniform"]


def test_a_finished_run_is_not_repeated(hard: tuple[Path, Record], cache: Path) -> None:
    folder, record = hard
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = run(small_config(cache, *HARD, "log_every=1", "logger=[]"), folder)
    assert again == json.loads(json.dumps(record))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_configuration_in_the_folder_raises(hard: tuple[Path, Record], cache: Path) -> None:
    folder, _ = hard
    before = (folder / "metrics.json").read_bytes()
    message = r"metrics\.json is of a run .*\(eval_every: 2 there, None here; steps: 6 there, 7 here\).*resume=false"
    with pytest.raises(ValueError, match=message):
        run(small_config(cache, *HARD[1:], "steps=7"), folder)
    assert (folder / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b'{"student": ', b"[]", b"{}", b"\xff\xfe\x00"])
def test_an_invalid_record_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.json (is|has) .*; remove it, or .*resume=false"):
        run(small_config(tmp_path), tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_run_can_be_started_anew(tmp_path: Path, cache: Path) -> None:
    run(small_config(cache, "method=kd"), tmp_path, quiet=True)
    found = run(small_config(cache, "method=kd", "steps=7", "resume=false"), tmp_path, quiet=True)
    assert found["student"]["steps"] == found["config"]["steps"] == 7
    assert (tmp_path / "curves.csv").read_text().count(",loss,") == 4


def test_the_settings_of_a_trial_are_in_the_record(tmp_path: Path, cache: Path) -> None:
    base = small_config(cache, "method=kd")
    chosen = small_config(cache, "method=kd", "temperature=4.0")
    found = run(chosen, tmp_path, base=base, settings=["temperature=4.0"], trials=3, quiet=True)
    assert (found["settings"], found["trials"]) == (["temperature=4.0"], 3)
    assert (found["config"]["temperature"], found["group"]["temperature"]) == (4.0, 2.0)


@pytest.mark.parametrize("method", ["kd", pytest.param("hard", marks=pytest.mark.slow)])
def test_a_stopped_run_ends_bit_identical(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the teacher, in the student between checkpoints, and after its last step."""
    options = [f"method={method}", "eval_every=2", "steps=5", "trainer.ema=0.5"]
    whole = run(small_config(tmp_path / "whole", *options), tmp_path / "whole" / "run", quiet=True)
    folder = tmp_path / "parts" / "run"
    for times in (0, 3, 2):
        monkeypatch.setattr(module, "defer_signals", stopping_at(times))
        with pytest.raises(KeyboardInterrupt):
            run(small_config(tmp_path / "parts", *options), folder, quiet=True)
        monkeypatch.undo()
        assert not (folder / "metrics.json").exists()
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["loop"]["step"] == 5
    resumed = run(small_config(tmp_path / "parts", *options), folder, quiet=True)
    assert without_time(resumed) == without_time(whole)
    ours, theirs = (
        torch.load(place / "student.pt", weights_only=True) for place in (folder, tmp_path / "whole" / "run")
    )
    assert equal(ours, theirs)
    assert (folder / "curves.csv").read_text() == (tmp_path / "whole" / "run" / "curves.csv").read_text()
    assert not (folder / "checkpoint.pt").exists()


def test_a_run_that_was_killed_before_it_wrote_its_record(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `student.pt`: the training is not repeated."""
    config = small_config(cache, "method=kd")

    def killed(path: Path, value: Any) -> None:
        raise InterruptedError("killed")

    monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(InterruptedError):
        run(config, tmp_path, quiet=True)
    monkeypatch.undo()
    first = torch.load(tmp_path / "student.pt", weights_only=True)["model"]
    monkeypatch.setattr(Distillation, "loss", None)  # no further step
    record = run(config, tmp_path, quiet=True)
    assert equal(torch.load(tmp_path / "student.pt", weights_only=True)["model"], first)
    assert record["student"]["seconds"] > 0
    assert {path.name for path in tmp_path.iterdir()} >= {"metrics.json", "student.pt", "curves.csv"}
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_run_on_a_full_disk_can_be_resumed(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        run(small_config(cache, "method=kd"), tmp_path, quiet=True)
    monkeypatch.undo()
    assert run(small_config(cache, "method=kd"), tmp_path, quiet=True)["student"]["steps"] == 6


def test_the_batch_size_is_lowered_to_the_number_of_images(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["method=kd", "batch_size=4000", "teacher.batch_size=4000", "data.fraction=0.003", "trainer.accumulate=4"]
    with caplog.at_level("INFO"):
        found = run(small_config(cache, *options), tmp_path, quiet=True)
    (teacher, message) = sorted((text for text in caplog.messages if "lowered" in text), reverse=True)
    count = int(message.split("there are ")[1].split()[0])
    assert 8 <= count <= 15
    assert message.startswith(f"student: batch_size=4000 lowered to {count - count % 4}")
    assert teacher == f"teacher: batch_size=4000 lowered to {count}, the number of training images"
    assert found["student"]["batch_size"] == count - count % 4
    assert found["student"]["evaluations"] == 6 * (count - count % 4) * 4  # the teacher's forward, and a training step


def test_a_student_that_starts_from_a_plain_distillation(tmp_path: Path, cache: Path) -> None:
    initial = "initial={steps:4,batch_size:16,learning_rate:0.01}"
    found = run(small_config(cache, "method=kd", initial), tmp_path / "kd", quiet=True)
    states = [torch.load(path, weights_only=True) for path in (cache / "teachers").glob("*.pt")]
    (started,) = [state for state in states if "initial" in state["config"]]
    assert started["config"]["initial"]["steps"] == 4
    run(small_config(cache, "method=supervised", initial, "learning_rate=1e-12"), tmp_path / "same", quiet=True)
    kept = torch.load(tmp_path / "same" / "student.pt", weights_only=True)["model"]
    for name, value in started["model"].items():  # which the second run has only loaded
        assert torch.allclose(kept[name], value, atol=1e-6), name
    plain = run(small_config(cache, "method=kd"), tmp_path / "plain", quiet=True)
    assert plain["group"] != found["group"]


@pytest.mark.slow
def test_all_methods_spend_the_budget_of_network_evaluations(tmp_path: Path, cache: Path) -> None:
    spent = {}
    for method in ("supervised", "kd", "random", "hard"):
        options = [f"method={method}", "steps=10", "budget=nfe", "eval_every=5", "augmenter.schedule.every=2"]
        student = run(small_config(cache, *options), tmp_path / method, quiet=True)["student"]
        spent[method] = student["steps"]
        assert student["evaluations"] == pytest.approx(10 * 8 * 16, rel=0.1)
        steps = [point["step"] for point in student["curve"]]
        assert steps == [*range(5, student["steps"], 5), student["steps"]]
        last = (tmp_path / method / "curves.csv").read_text().splitlines()[-1]
        assert int(last.split(",")[0]) == student["steps"]
    assert (spent["kd"], spent["random"]) == (20, 10)
    assert spent["hard"] < 10 < spent["kd"] < spent["supervised"]


@pytest.mark.parametrize("method", ["calibrated", pytest.param("hard", marks=pytest.mark.slow)])
def test_the_budget_includes_the_calibration(method: str, tmp_path: Path, cache: Path) -> None:
    """The steps are fewer, by what the calibration costs."""
    chosen = ["transform@augmenter.transform=rotation", "policy@augmenter.policy=group_bandit"]
    options = [f"method={method}", "steps=60", "budget=nfe", "logger=[]", "augmenter.calibration=true", *chosen]
    student = run(small_config(cache, *options), tmp_path, quiet=True)["student"]
    step = 16 * (8 if method == "calibrated" else 8 + 0.25 * 3 / 6)  # the bandit: 3 forwards of a quarter, each 6 calls
    calibration = student["evaluations"] - student["steps"] * step
    assert calibration >= 3 * 128  # at least once at both ends of the range, and of all together
    assert student["evaluations"] == pytest.approx(60 * 8 * 16, abs=step)
    assert student["steps"] == pytest.approx((60 * 8 * 16 - calibration) / step, abs=1)


def test_a_budget_requires_a_known_cost(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match="Threshold is not known in advance"):
        run(small_config(cache, "budget=nfe", "schedule@augmenter.schedule=threshold"), tmp_path, quiet=True)


def test_held_out_corruptions_are_in_the_record(tmp_path: Path, cache: Path) -> None:
    found = run(small_config(cache, "method=kd", "task=corruption", "task.images=20"), tmp_path, quiet=True)
    assert found["held_out_corruptions"] == ["contrast", "shear", "pixelate"]
    assert found["main"] == "corrupted"
    assert set(found["held_out_corruptions"]) < set(found["sets"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=0", "steps=0"),
        ("test_shift=0", "test_shift=0"),
        ("teacher.train_shift=-1", r"teacher\.train_shift=-1"),
        ("data.fraction=1.5", r"data\.fraction=1\.5"),
        ("data.canvas=20", "canvas"),
        ("device=tpu0", "device=tpu0: expected auto, cpu"),
        ("trainer.precision=float64", "precision=float64: expected one of no, bf16, fp16"),
        ("trainer.precision=fp16", "fp16 on a CPU: expected bf16 or no"),
        ("trainer.accumulate=3", "batch_size=16 .*accumulate=3: expected a multiple of 3, such as batch_size=15"),
        ("trainer.ema=1.0", r"ema=1\.0: expected a decay in \[0, 1\)"),
        ("logger=[tensorbord]", "tensorbord"),
    ],
)
def test_invalid_settings_raise_before_any_training(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(small_config(tmp_path, override), tmp_path / "run", quiet=True)
    assert not list(tmp_path.rglob("*.pt"))
    assert distributed.world_size() == 1


def test_invalid_parts_raise_before_the_first_step(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(Exception, match="std=-1"):
        run(small_config(cache, "+augmenter.policy.std=-1"), tmp_path / "run", quiet=True)
    assert not list(tmp_path.rglob("*.pt"))


def test_out_of_memory_errors_name_the_settings_to_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distillation, "loss", lambda *_: torch.empty(2**48))  # a petabyte
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size=16, raise trainer.accumulate=1, .*bf16"):
        run(small_config(cache, "method=kd"), tmp_path, quiet=True)


@pytest.mark.slow
def test_runs_with_different_precisions_in_one_process(tmp_path: Path, cache: Path) -> None:
    found: dict[str, Any] = {}
    for number, precision in enumerate(("bf16", "no", "bf16")):
        config = small_config(cache, f"trainer.precision={precision}", "steps=3", "method=kd", "seed=1")
        record = without_time(run(config, tmp_path / str(number), quiet=True))
        assert found.setdefault(precision, record) == record
        weights = torch.load(tmp_path / str(number) / "student.pt", weights_only=True)["model"]
        assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
    weights = [torch.load(tmp_path / name / "student.pt", weights_only=True)["model"] for name in ("0", "1", "2")]
    assert equal(weights[0], weights[2])
    assert not equal(weights[0], weights[1])
