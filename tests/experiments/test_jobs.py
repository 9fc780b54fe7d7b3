"""Students and their trials: parsing, validation, selection, resuming, and accuracy curves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments import report, train
from experiments.configuration.run import run_identity
from experiments.configuration.students import StudentSpec, resolve_config, results_by_row, student_specs, trials_by_row
from experiments.models.networks import multiply_adds, small_vit, timm_network
from experiments.runs.experiment import Experiment
from experiments.train import accuracy_table, run
from experiments.training.interrupts import Stop
from experiments.training.loop import progress_bar
from hard_aug.data import Splits
from hard_aug.objectives import Hinge
from hard_aug.policies import Generator, Search
from hard_aug.transforms import Filter
from tests.helpers.engine_parts import use_few_digits
from tests.helpers.stops import StopAt


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


def config_of(folder: Path, *overrides: str) -> DictConfig:
    small = ["steps=6", "batch_size=16", "teacher.steps=2", "teacher.batch_size=16", "threads=1", "log_every=2"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", [*small, "checkpoint_every=3", f"teacher_cache={folder}/teachers", *overrides])


def test_trials_make_several_students(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        "students=[kd,random,hard]",
        "trials={hard:[{transform:filter},{entropy_weight:0.0}],random:[{scale:0.5}],mixup:[{alpha:0.2}]}",
    )
    found = student_specs(config)
    assert [spec.name for spec in found] == ["kd", "random/0", "hard/0", "hard/1"]
    assert [spec.row for spec in found] == ["kd", "random", "hard", "hard"]
    assert found[1].scale == 0.5
    assert found[2].settings == {"transform": "filter"}


def test_trial_settings_are_merged_into_the_configuration(tmp_path: Path) -> None:
    config = config_of(tmp_path)

    def node(method: str, **settings: Any) -> DictConfig:
        return resolve_config(config, StudentSpec("x", method, settings=settings))

    swapped = node("hard", **{"policy.std": 0.5, "policy": "generator", "transform": "filter", "invariance": "hinge"})
    assert isinstance(instantiate(swapped.transform), Filter)
    assert isinstance(instantiate(swapped.invariance), Hinge)
    policy = instantiate(swapped.policy)(Filter().spec)
    assert isinstance(policy, Generator)
    assert float(policy.log_std.detach()[0].exp()) == pytest.approx(0.5)
    assert "shear" not in swapped.transform
    nested = node("hard", transform={"rotation": 10.0, "shear": None}, invariance={"weight": 3.0})
    assert (nested.transform.rotation, nested.transform.shear, nested.transform.translation) == (10.0, None, 0.25)
    assert node("hard", transform="vae").transform.autoencoder.device == config.device  # an interpolation
    inside = node("hard", **{"transform": "affine_color", "transform._args_.1.contrast": 3.0})
    assert inside.transform._args_[1].contrast == 3.0
    assert node("label_adversary", transform="filter", weight=2.0).transform._target_.endswith("Filter")
    assert config.augmenter.transform.rotation != 10.0  # the original is unchanged


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["students=[kd,hrad]"], "hrad.*expected some of supervised, kd.*mixup"),
        (["students=[kd,kd]"], "expected each once"),
        (["trials={hrad:[{temperature:2}]}"], "hrad unknown; expected some of supervised, kd.*consistent_mixup"),
        (["trials={hard:[{rotation:3}]}"], "rotation unknown; expected some of .*temperature.*transform.*min_variance"),
        (["trials={hard:[{transform.rotate:3}]}"], r"rotate unknown; expected some of translation, rotation.*padding"),
        (["trials={hard:[{transform:{rotate:3}}]}"], "rotate unknown; expected some of translation, rotation"),
        (["trials={hard:[{transform:afine}]}"], "transform=afine: expected one of affine, affine_color"),
        (["trials={hard:[{transform:affine_color,transform._args_.2.hue:1}]}"], "2 unknown; expected an index below 2"),
        (["trials={hard:[{entropy_weight.x:1}]}"], "x is not a setting of 0.08"),
        (["trials={kd:[{alpha:1}]}"], "alpha unknown; expected some of student_learning_rate, temperature"),
        (["trials={supervised:[{temperature:2}]}"], "temperature unknown; expected some of student_learning_rate"),
        (["trials={random:[{policy:generator}]}"], "policy; expected some of .*scale, transform"),
        (["trials={random:[{scale:2}]}"], r"scale=2: expected a fraction in \(0, 1\]"),
        (["trials={kd:[{temperature:0}]}"], "temperature=0: expected a positive number"),
        (["trials={kd:[{student_learning_rate:nan}]}"], "student_learning_rate=nan: expected a positive number"),
        (["students=[mixup]", "trials={mixup:[{beta:1}]}"], "beta unknown; expected some of .*alpha"),
        (["students=[mixup]", "trials={mixup:{alpha:1}}"], "expected a list of settings"),
        (["trials={random:[{scale:0.5}]}", "tune_random=[0.5]"], r"use one of them: tune_random=\[\]"),
        (["select_on=test"], "select_on=test: expected one of clean, main, sum"),
        (["eval_every=0"], "eval_every=0"),
        (["data.fraction=0"], r"data\.fraction=0"),
        (["data.fraction=1.5"], r"data\.fraction=1\.5"),
    ],
)
def test_invalid_settings_raise_before_any_training(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(config_of(tmp_path, *overrides), tmp_path, quiet=True)
    assert not list(tmp_path.rglob("*.pt"))


def test_invalid_component_settings_raise_before_the_first_student(tmp_path: Path) -> None:
    config = config_of(tmp_path, "students=[kd,hard]", "trials={hard:[{},{policy:{std:-1}}]}")
    with pytest.raises(Exception, match=r"std=-1"):
        run(config, tmp_path, quiet=True)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_identity_contains_only_settings_of_the_run_s_students(tmp_path: Path) -> None:
    plain = run_identity(config_of(tmp_path))
    assert not {"baselines", "trials", "budget", "select_on", "eval_every"} & set(plain)
    assert "fraction" not in plain["data"]
    stranger = run_identity(config_of(tmp_path, "trials={mixup:[{alpha:2}]}", "baselines.cutmix.alpha=3"))
    assert stranger == plain
    named = run_identity(
        config_of(
            tmp_path,
            "students=[kd,mixup,hard]",
            "trials={hard:[{transform:filter}]}",
            "data.fraction=0.5",
            "select_on=sum",
            "eval_every=7",
            "budget=nfe",
        )
    )
    assert list(named["baselines"]) == ["mixup"]
    assert named["trials"]["hard"][0]["transform"]["_target_"] == "hard_aug.transforms.Filter"
    assert (named["data"]["fraction"], named["select_on"], named["eval_every"]) == (0.5, "sum", 7)
    assert named["budget"] == "nfe"


def test_a_row_has_the_metrics_of_its_best_trial_on_validation_data() -> None:
    found = [StudentSpec(f"a/{i}", "a", row="a", settings={"t": i}) for i in range(3)] + [
        StudentSpec("b", "b", row="b")
    ]
    metrics: dict[str, Any] = {spec.name: {"validation": 0.5, "test": 0.0} for spec in found}
    metrics["a/1"] = {"validation": 0.7, "test": 0.1}
    metrics["a/2"] = {"validation": 0.7, "test": 0.9}  # not better on validation data
    assert results_by_row(found, metrics) == {
        "a": {"validation": 0.7, "test": 0.1, "trials": 3, "trial": {"t": 1}},
        "b": {"validation": 0.5, "test": 0.0, "trials": 1},
    }
    trials = trials_by_row(found, metrics)
    assert list(trials) == ["a"]
    assert [one["settings"]["t"] for one in trials["a"]] == [0, 1, 2]


TRIALS = (
    "students=[kd,mixup,hard]",
    "trials={kd:[{temperature:1.0},{student_learning_rate:1e-9}],mixup:[{alpha:0.3},{temperature:4.0}],"
    "hard:[{transform:{scale:null,shear:null},policy:generator},{policy:gaussian}]}",
)


@pytest.mark.slow
def test_a_run_with_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "DIAGNOSIS_IMAGES", 40)
    config = config_of(tmp_path, *TRIALS, "select_on=clean", "steps=12")
    metrics = run(config, tmp_path / "run", quiet=True)
    assert list(metrics["students"]) == ["kd", "mixup", "hard"]
    for row, those in metrics["trials"].items():
        best = max(those, key=lambda one: one["validation"])
        assert metrics["students"][row]["trial"] == best["settings"]
        assert metrics["students"][row]["trials"] == len(those) == 2
        for one in those:
            assert one["validation"] == one["validation_sets"]["clean"]
            assert one["evaluations"] >= 12 * 16 * 4
    assert metrics["students"]["kd"]["evaluations"] == 12 * 16 * 4
    assert metrics["students"]["hard"]["policy_updates"] == 2
    narrowed = "transform" in metrics["students"]["hard"]["trial"]
    assert ("shear" in metrics["policy"]) != narrowed  # the figures are of the best
    assert list(accuracy_table(metrics).columns[4].cells) == ["", "2", "2", "2"]
    report.main([str(tmp_path / "run"), "--markdown"])
    assert "| trials |" in capsys.readouterr().out
    again = run(config, tmp_path / "run", quiet=True, figures=False)
    assert again["students"] == metrics["students"]


@pytest.mark.slow
def test_trials_from_uses_the_settings_selected_by_other_runs(tmp_path: Path) -> None:
    """Selected by the mean over two runs with the same trials; each student is trained once."""
    for seed in (0, 1):
        run(config_of(tmp_path, *TRIALS, f"seed={seed}"), tmp_path / str(seed), quiet=True, figures=False)
    found = [json.loads((tmp_path / str(seed) / "metrics.json").read_text()) for seed in (0, 1)]
    runs = f"trials_from=[{tmp_path}/0,{tmp_path}/1]"
    config = config_of(tmp_path, TRIALS[0], runs, "seed=2")
    metrics = run(config, tmp_path / "2", quiet=True, figures=False)
    for row, those in metrics["trials"].items():
        assert len(those) == 1
        tried = [[one["validation"] for one in each["trials"][row]] for each in found]
        means = [sum(values) / 2 for values in zip(*tried, strict=True)]
        assert those[0]["settings"] == found[0]["trials"][row][means.index(max(means))]["settings"]
        assert metrics["students"][row]["trials"] == 2
    spelled = config_of(tmp_path, TRIALS[0], "seed=2")
    assert run_identity(spelled) != run_identity(config)
    spelled.trials = {row: [those[0]["settings"]] for row, those in metrics["trials"].items()}
    assert run_identity(spelled) == run_identity(config)  # whatever the settings are from
    assert student_specs(config_of(tmp_path, "students=[kd]", f"trials_from={tmp_path}/0"))[0].prior_trials == 2
    with pytest.raises(FileNotFoundError, match=r"no .*/none/metrics\.json; expected the folder of a finished run"):
        student_specs(config_of(tmp_path, f"trials_from={tmp_path}/none"))
    with pytest.raises(ValueError, match="has no student supervised"):
        student_specs(config_of(tmp_path, "students=[supervised]", runs))
    with pytest.raises(ValueError, match=r"has select_on=\w+, here it is sum; expected the same"):
        student_specs(config_of(tmp_path, "students=[kd]", runs, "select_on=sum"))
    changed = found[1] | {"trials": {"kd": found[1]["trials"]["kd"][:1]}}
    (tmp_path / "1" / "metrics.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="different trials for kd"):
        student_specs(config_of(tmp_path, "students=[kd]", runs))


def test_select_on_determines_the_validation_accuracy(tmp_path: Path) -> None:
    found = {}
    for choice in ("clean", "main", "sum"):
        metrics = run(
            config_of(tmp_path, "students=[kd]", f"select_on={choice}"), tmp_path / choice, quiet=True, figures=False
        )
        found[choice] = metrics["students"]["kd"]
    clean, main = (found["sum"]["validation_sets"][name] for name in ("clean", "shifted"))
    assert clean != main
    assert [found[c]["validation"] for c in found] == pytest.approx([clean, main, (clean + main) / 2], abs=1e-5)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_trials_and_curves(tmp_path: Path) -> None:
    config = config_of(tmp_path, *TRIALS, "eval_every=2", "steps=5")
    whole_data = instantiate(config.data)
    splits = Splits(
        whole_data.train, whole_data.validation[slice(0, 60)], whole_data.test[slice(0, 60)], whole_data.classes
    )

    def attempt(folder: Path, stop: Stop) -> Experiment:
        folder.mkdir(exist_ok=True)
        with progress_bar(quiet=True) as progress:
            experiment = Experiment(config, splits, folder, progress, stop)
            for spec in experiment.specs:
                experiment.train(spec)
        return experiment

    def without_time(experiment: Experiment) -> Any:
        text = json.loads(json.dumps(experiment.trials()))
        for one in [one for those in text.values() for one in those]:
            del one["seconds"]
            assert [point["step"] for point in one["curve"]] == [2, 4, 5]
            evaluations = [point.pop("evaluations") for point in one["curve"]]
            assert evaluations[-1] == one["evaluations"]
            assert evaluations == sorted(evaluations)
            times = [point.pop("seconds") for point in one["curve"]]
            assert times == sorted(times)
            one["passes"] = evaluations
        return text

    whole = attempt(tmp_path / "whole", Stop())
    shutil.rmtree(tmp_path / "teachers")
    for times in (4, 7, 9):
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "parts", StopAt(times))
    resumed = attempt(tmp_path / "parts", Stop())
    assert without_time(whole) == without_time(resumed)
    for name, result in whole.state["finished"].items():
        for key, value in result["model"].items():
            assert torch.equal(value, resumed.state["finished"][name]["model"][key]), (name, key)
    assert whole.results().keys() == resumed.results().keys()


def test_a_search_as_a_trial(tmp_path: Path) -> None:
    settings = "policy:search,policy.candidates:3,policy.steps:0,invariance:hinge,schedule:alternating,schedule.every:1"
    config = config_of(tmp_path, "students=[hard]", f"trials={{hard:[{{{settings},schedule.fraction:1.0}}]}}")
    with progress_bar(quiet=True) as progress:
        experiment = Experiment(config, instantiate(config.data), tmp_path, progress, Stop())
    augmenter = experiment.augmenter(experiment.student(), experiment.specs[0])
    assert isinstance(augmenter.policy, Search)
    assert augmenter.policy.candidates == 3


@pytest.mark.slow
def test_a_fraction_of_the_training_images(tmp_path: Path) -> None:
    whole = instantiate(config_of(tmp_path).data)
    parts = {share: instantiate(config_of(tmp_path, f"data.fraction={share}").data) for share in (0.1, 0.5)}
    for share, splits in parts.items():
        counts, all_counts = splits.train.labels.bincount(), whole.train.labels.bincount()
        assert torch.allclose(counts.float(), share * all_counts, atol=0.51)
        assert torch.equal(splits.test.images, whole.test.images)
        assert torch.equal(splits.validation.images, whole.validation.images)
    sets = [{tuple(image.flatten().tolist()) for image in splits.train.images} for splits in parts.values()]
    assert sets[0] < sets[1]
    least = instantiate(config_of(tmp_path, "data.fraction=1e-9").data)
    assert least.train.labels.bincount().tolist() == [1] * 10


@pytest.mark.parametrize("student", ["conv", "conv_wide", "vit", "timm"])
def test_students_by_name(tmp_path: Path, student: str) -> None:
    named = ["student.name=test_resnet.r160_in1k"] if student == "timm" else []
    config = config_of(tmp_path, "students=[hard]", f"student={student}", *named, "steps=2")
    metrics = run(config, tmp_path / "run", quiet=True, figures=False)
    assert 0 <= metrics["students"]["hard"]["shifted"] <= 1


def test_the_size_of_the_vision_transformer() -> None:
    assert 1.5e6 < multiply_adds(small_vit(), (1, 28, 28)) < 3e6
    assert small_vit(size=32, patch=8, channels=3, classes=7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match=r"patch=7.*32.*student\.patch=8"):
        small_vit(size=32)


@pytest.mark.slow
def test_a_teacher_without_training(tmp_path: Path) -> None:
    as_it_is = ["teacher=timm", "teacher.name=test_resnet.r160_in1k", "teacher.pretrained=false", "students=[kd]"]
    config = config_of(tmp_path, *as_it_is, "teacher.steps=0")
    with pytest.raises(ValueError, match="the teacher has 1000 classes and mnist5k has 10"):
        run(config, tmp_path / "run", quiet=True)
    config = config_of(tmp_path, *as_it_is, "teacher.steps=0", "+teacher.model.classes=10")
    metrics = run(config, tmp_path / "run", quiet=True, figures=False)
    assert not metrics["teacher"]["cached"]
    assert not (tmp_path / "teachers").exists()
    trained = config_of(tmp_path, *as_it_is)
    assert run(trained, tmp_path / "trained", quiet=True, figures=False)["teacher"]["multiply_adds"] > 0
    assert len(list((tmp_path / "teachers").glob("*.pt"))) == 1
    with pytest.raises(ValueError, match="steps=-1"):
        run(config_of(tmp_path, "teacher.steps=-1"), tmp_path / "negative", quiet=True)


def test_unavailable_timm_models_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"student\.name=resnet18"):
        timm_network(None)
    with pytest.raises(ValueError, match=r"similar: .*resnet18"):
        timm_network("resnet8")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"resnet18.*are not available(.|\n)*pretrained=false"):
        timm_network("resnet18", pretrained=True)


def test_a_trial_s_temperature_applies_to_the_objective(tmp_path: Path) -> None:
    """The objective is the student's own loss."""
    config = config_of(tmp_path, "students=[hard]", "trials={hard:[{temperature:4.0},{}]}")
    metrics = run(config, tmp_path / "run", quiet=True, figures=False)
    assert [one["settings"] for one in metrics["trials"]["hard"]] == [{"temperature": 4.0}, {}]
    assert resolve_config(config, student_specs(config)[0]).objective.temperature == 4.0
    assert resolve_config(config, student_specs(config)[1]).objective.temperature == 2.0


@pytest.mark.slow
def test_all_students_spend_the_budget_of_network_evaluations(tmp_path: Path) -> None:
    hard = "{policy:search,policy.candidates:3,policy.steps:0,schedule:alternating,schedule.every:2}"
    config = config_of(
        tmp_path,
        "steps=20",
        "budget=nfe",
        "students=[supervised,kd,random,cutmixpick,label_adversary,hard]",
        f"trials={{hard:[{hard},{{policy:generator}},{{schedule:alternating,schedule.steps:2}}]}}",
    )
    (tmp_path / "run").mkdir()
    metrics = run(config, tmp_path / "run", quiet=True, figures=False)
    budget = 20 * 8 * 16
    rows = [*metrics["students"].values(), *metrics["trials"]["hard"]]
    assert len({row["steps"] for row in rows}) > 3
    assert metrics["students"]["kd"]["steps"] == 40
    for row in rows:
        assert row["evaluations"] == pytest.approx(budget, rel=0.06)


def test_a_budget_requires_a_known_cost(tmp_path: Path) -> None:
    for overrides, message in (
        (["budget=seconds"], "expected one of steps, nfe"),
        (["budget=nfe", "students=[kd,generated]"], "generated requires budget=steps"),
        (["budget=nfe", "schedule@augmenter.schedule=threshold"], "Threshold is not known in advance"),
    ):
        config = config_of(tmp_path, *overrides)
        with pytest.raises(ValueError, match=message):
            Experiment(config, instantiate(config.data), tmp_path, progress_bar(quiet=True), Stop())
