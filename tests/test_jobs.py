"""Students and their trials: what a configuration asks for, what is chosen, what is refused, and the curve of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig
from stops import StopAt

from experiments import report, train
from experiments.data import Splits
from experiments.experiment import Experiment, identity
from experiments.jobs import Job, jobs, listed, rows, settled
from experiments.models import multiply_adds, small_vit, timm_network
from experiments.stop import Stop
from experiments.train import run, table
from experiments.training import progress_bar
from hard_aug.objectives import Hinge
from hard_aug.policies import Generator, Search
from hard_aug.transforms import Filter


def config_of(folder: Path, *overrides: str) -> DictConfig:
    small = ["steps=6", "batch_size=16", "teacher.steps=2", "teacher.batch_size=16", "threads=1", "log_every=2"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", [*small, "checkpoint_every=3", f"teacher_cache={folder}/teachers", *overrides])


def test_trials_make_jobs(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        "students=[kd,random,hard]",
        "trials={hard:[{transform:filter},{spread_weight:0.0}],random:[{scale:0.5}],mixup:[{alpha:0.2}]}",
    )
    found = jobs(config)
    assert [job.name for job in found] == ["kd", "random/0", "hard/0", "hard/1"]
    assert [job.row for job in found] == ["kd", "random", "hard", "hard"]
    assert found[1].scale == 0.5
    assert found[2].settings == {"transform": "filter"}


def test_settings_are_put_into_the_configuration(tmp_path: Path) -> None:
    config = config_of(tmp_path)

    def node(method: str, **settings: Any) -> DictConfig:
        return settled(config, Job("x", method, settings=settings))

    swapped = node("hard", **{"policy.std": 0.5, "policy": "generator", "transform": "filter", "invariance": "hinge"})
    assert isinstance(instantiate(swapped.transform), Filter)
    assert isinstance(instantiate(swapped.invariance), Hinge)
    policy = instantiate(swapped.policy)(Filter().spec)
    assert isinstance(policy, Generator)
    assert float(policy.log_std.detach()[0].exp()) == pytest.approx(0.5)
    assert "shear" not in swapped.transform
    nested = node("hard", transform={"rotation": 10.0, "shear": None}, invariance={"weight": 3.0})
    assert (nested.transform.rotation, nested.transform.shear, nested.transform.translation) == (10.0, None, 0.25)
    assert node("hard", transform="vae").transform.autoencoder.device == config.device  # a reference to elsewhere
    inside = node("hard", **{"transform": "affine_color", "transform._args_.1.contrast": 3.0})
    assert inside.transform._args_[1].contrast == 3.0
    assert node("label_adversary", transform="filter", weight=2.0).transform._target_.endswith("Filter")
    assert config.augmenter.transform.rotation != 10.0  # all were copies


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["students=[kd,hrad]"], "hrad.*wanted some of labels, kd.*mixup"),
        (["students=[kd,kd]"], "wanted each once"),
        (["trials={hrad:[{temperature:2}]}"], "hrad unknown; wanted some of labels, kd.*beyer"),
        (["trials={hard:[{rotation:3}]}"], "rotation unknown; wanted some of .*temperature.*transform.*spread_floor"),
        (["trials={hard:[{transform.rotate:3}]}"], r"rotate unknown; wanted some of translation, rotation.*padding"),
        (["trials={hard:[{transform:{rotate:3}}]}"], "rotate unknown; wanted some of translation, rotation"),
        (["trials={hard:[{transform:afine}]}"], "transform=afine: wanted one of affine, affine_color"),
        (["trials={hard:[{transform:affine_color,transform._args_.2.hue:1}]}"], "2 unknown; wanted a number below 2"),
        (["trials={hard:[{spread_weight.x:1}]}"], "x is no setting of 0.08"),
        (["trials={kd:[{alpha:1}]}"], "alpha unknown; wanted some of student_learning_rate, temperature"),
        (["trials={labels:[{temperature:2}]}"], "temperature unknown; wanted some of student_learning_rate"),
        (["trials={random:[{policy:generator}]}"], "policy; wanted some of .*scale, transform"),
        (["trials={random:[{scale:2}]}"], r"scale=2: wanted a share of the ranges in \(0, 1\]"),
        (["trials={kd:[{temperature:0}]}"], "temperature=0: wanted a positive number"),
        (["trials={kd:[{student_learning_rate:nan}]}"], "student_learning_rate=nan: wanted a positive number"),
        (["students=[mixup]", "trials={mixup:[{beta:1}]}"], "beta unknown; wanted some of .*alpha"),
        (["students=[mixup]", "trials={mixup:{alpha:1}}"], "wanted a list of settings"),
        (["trials={random:[{scale:0.5}]}", "tune_random=[0.5]"], r"give one: tune_random=\[\]"),
        (["choose_on=test"], "choose_on=test: wanted one of clean, main, sum"),
        (["eval_every=0"], "eval_every=0"),
        (["data.fraction=0"], r"data\.fraction=0"),
        (["data.fraction=1.5"], r"data\.fraction=1\.5"),
    ],
)
def test_what_can_not_be_is_refused_before_any_work(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(config_of(tmp_path, *overrides), tmp_path, quiet=True)
    assert not list(tmp_path.rglob("*.pt"))


def test_values_that_only_the_parts_refuse_are_found_before_the_first_student(tmp_path: Path) -> None:
    config = config_of(tmp_path, "students=[kd,hard]", "trials={hard:[{},{policy:{std:-1}}]}")
    with pytest.raises(Exception, match=r"std=-1"):
        run(config, tmp_path, quiet=True)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_identity_names_only_what_the_run_has(tmp_path: Path) -> None:
    plain = identity(config_of(tmp_path))
    assert not {"baselines", "trials", "budget", "choose_on", "eval_every"} & set(plain)
    assert "fraction" not in plain["data"]
    stranger = identity(config_of(tmp_path, "trials={mixup:[{alpha:2}]}", "baselines.cutmix.alpha=3"))
    assert stranger == plain
    named = identity(
        config_of(
            tmp_path,
            "students=[kd,mixup,hard]",
            "trials={hard:[{transform:filter}]}",
            "data.fraction=0.5",
            "choose_on=sum",
            "eval_every=7",
            "budget=evaluations",
        )
    )
    assert list(named["baselines"]) == ["mixup"]
    assert named["trials"]["hard"][0]["transform"]["_target_"] == "hard_aug.transforms.Filter"
    assert (named["data"]["fraction"], named["choose_on"], named["eval_every"]) == (0.5, "sum", 7)
    assert named["budget"] == "evaluations"


def test_the_best_on_validation_stands_for_its_row() -> None:
    found = [Job(f"a/{i}", "a", row="a", settings={"t": i}) for i in range(3)] + [Job("b", "b", row="b")]
    metrics: dict[str, Any] = {job.name: {"validation": 0.5, "test": 0.0} for job in found}
    metrics["a/1"] = {"validation": 0.7, "test": 0.1}
    metrics["a/2"] = {"validation": 0.7, "test": 0.9}  # no better where it counts
    assert rows(found, metrics) == {
        "a": {"validation": 0.7, "test": 0.1, "trials": 3, "trial": {"t": 1}},
        "b": {"validation": 0.5, "test": 0.0, "trials": 1},
    }
    trials = listed(found, metrics)
    assert list(trials) == ["a"]
    assert [one["settings"]["t"] for one in trials["a"]] == [0, 1, 2]


TRIALS = (
    "students=[kd,mixup,hard]",
    "trials={kd:[{temperature:1.0},{student_learning_rate:1e-9}],mixup:[{alpha:0.3},{temperature:4.0}],"
    "hard:[{transform:{scale:null,shear:null},policy:generator},{policy:gaussian}]}",
)


def test_a_run_with_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "EXAMINED", 40)
    config = config_of(tmp_path, *TRIALS, "choose_on=clean", "steps=12")
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
    assert metrics["students"]["hard"]["ascents"] == 2
    narrowed = "transform" in metrics["students"]["hard"]["trial"]
    assert ("shear" in metrics["policy"]) != narrowed  # the pictures are of the best
    assert list(table(metrics).columns[4].cells) == ["", "2", "2", "2"]
    report.main([str(tmp_path / "run"), "--markdown"])
    assert "| trials |" in capsys.readouterr().out
    again = run(config, tmp_path / "run", quiet=True, pictures=False)
    assert again["students"] == metrics["students"]


def test_what_other_runs_chose_is_taken(tmp_path: Path) -> None:
    """Of two runs with the same trials: by the mean, each student trained once, and counted as chosen from two."""
    for seed in (0, 1):
        run(config_of(tmp_path, *TRIALS, f"seed={seed}"), tmp_path / str(seed), quiet=True, pictures=False)
    found = [json.loads((tmp_path / str(seed) / "metrics.json").read_text()) for seed in (0, 1)]
    runs = f"trials_from=[{tmp_path}/0,{tmp_path}/1]"
    config = config_of(tmp_path, TRIALS[0], runs, "seed=2")
    metrics = run(config, tmp_path / "2", quiet=True, pictures=False)
    for row, those in metrics["trials"].items():
        assert len(those) == 1
        tried = [[one["validation"] for one in each["trials"][row]] for each in found]
        means = [sum(values) / 2 for values in zip(*tried, strict=True)]
        assert those[0]["settings"] == found[0]["trials"][row][means.index(max(means))]["settings"]
        assert metrics["students"][row]["trials"] == 2
    spelled = config_of(tmp_path, TRIALS[0], "seed=2")
    assert identity(spelled) != identity(config)
    spelled.trials = {row: [those[0]["settings"]] for row, those in metrics["trials"].items()}
    assert identity(spelled) == identity(config)  # the outcome depends on the settings, not on where they are from
    assert jobs(config_of(tmp_path, "students=[kd]", f"trials_from={tmp_path}/0"))[0].tried == 2
    with pytest.raises(FileNotFoundError, match=r"no .*/none/metrics\.json; wanted the folder of a finished run"):
        jobs(config_of(tmp_path, f"trials_from={tmp_path}/none"))
    with pytest.raises(ValueError, match="has no student labels"):
        jobs(config_of(tmp_path, "students=[labels]", runs))
    with pytest.raises(ValueError, match=r"has chosen on \w+, and choose_on=sum; wanted the same"):
        jobs(config_of(tmp_path, "students=[kd]", runs, "choose_on=sum"))
    changed = found[1] | {"trials": {"kd": found[1]["trials"]["kd"][:1]}}
    (tmp_path / "1" / "metrics.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="other settings for kd"):
        jobs(config_of(tmp_path, "students=[kd]", runs))


def test_the_choice_is_made_on_what_is_asked_for(tmp_path: Path) -> None:
    found = {}
    for choice in ("clean", "main", "sum"):
        metrics = run(
            config_of(tmp_path, "students=[kd]", f"choose_on={choice}"), tmp_path / choice, quiet=True, pictures=False
        )
        found[choice] = metrics["students"]["kd"]
    clean, main = (found["sum"]["validation_sets"][name] for name in ("clean", "shifted"))
    assert clean != main
    assert [found[c]["validation"] for c in found] == pytest.approx([clean, main, (clean + main) / 2], abs=1e-5)


def test_a_stopped_run_ends_with_the_same_trials_and_curve(tmp_path: Path) -> None:
    config = config_of(tmp_path, *TRIALS, "eval_every=2", "steps=5")
    whole_data = instantiate(config.data)
    splits = Splits(
        whole_data.train, whole_data.validation[slice(0, 60)], whole_data.test[slice(0, 60)], whole_data.classes
    )

    def attempt(folder: Path, stop: Stop) -> Experiment:
        folder.mkdir(exist_ok=True)
        with progress_bar(quiet=True) as progress:
            experiment = Experiment(config, splits, folder, progress, stop)
            for job in experiment.jobs:
                experiment.train(job)
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
    for name, kept in whole.state["finished"].items():
        for key, value in kept["model"].items():
            assert torch.equal(value, resumed.state["finished"][name]["model"][key]), (name, key)
    assert whole.results().keys() == resumed.results().keys()


def test_a_search_as_a_trial(tmp_path: Path) -> None:
    settings = "policy:search,policy.candidates:3,policy.steps:0,invariance:hinge,schedule:alternating,schedule.every:1"
    config = config_of(tmp_path, "students=[hard]", f"trials={{hard:[{{{settings},schedule.fraction:1.0}}]}}")
    with progress_bar(quiet=True) as progress:
        experiment = Experiment(config, instantiate(config.data), tmp_path, progress, Stop())
    augmenter = experiment.augmenter(experiment.student(), experiment.jobs[0])
    assert isinstance(augmenter.policy, Search)
    assert augmenter.policy.candidates == 3


def test_a_share_of_the_training_images(tmp_path: Path) -> None:
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
    metrics = run(config, tmp_path / "run", quiet=True, pictures=False)
    assert 0 <= metrics["students"]["hard"]["shifted"] <= 1


def test_the_transformer_has_the_size_that_it_is_said_to_have() -> None:
    assert 1.5e6 < multiply_adds(small_vit(), (1, 28, 28)) < 3e6
    assert small_vit(size=32, patch=8, channels=3, classes=7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match=r"patch=7.*32.*student\.patch=8"):
        small_vit(size=32)


def test_a_teacher_that_is_taken_as_it_is(tmp_path: Path) -> None:
    as_it_is = ["teacher=timm", "teacher.name=test_resnet.r160_in1k", "teacher.pretrained=false", "students=[kd]"]
    config = config_of(tmp_path, *as_it_is, "teacher.steps=0")
    with pytest.raises(ValueError, match="answers with 1000 classes and mnist5k has 10"):
        run(config, tmp_path / "run", quiet=True)
    config = config_of(tmp_path, *as_it_is, "teacher.steps=0", "+teacher.model.classes=10")
    metrics = run(config, tmp_path / "run", quiet=True, pictures=False)
    assert not metrics["teacher"]["cached"]
    assert not (tmp_path / "teachers").exists()
    trained = config_of(tmp_path, *as_it_is)
    assert run(trained, tmp_path / "trained", quiet=True, pictures=False)["teacher"]["multiply_adds"] > 0
    assert len(list((tmp_path / "teachers").glob("*.pt"))) == 1
    with pytest.raises(ValueError, match="steps=-1"):
        run(config_of(tmp_path, "teacher.steps=-1"), tmp_path / "negative", quiet=True)


def test_timm_networks_that_can_not_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"student\.name=resnet18"):
        timm_network(None)
    with pytest.raises(ValueError, match=r"similar: .*resnet18"):
        timm_network("resnet8")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"resnet18.*can't be had(.|\n)*pretrained=false"):
        timm_network("resnet18", pretrained=True)


def test_a_trial_of_the_temperature_is_the_objective_s_too(tmp_path: Path) -> None:
    """Under the default schedule teacher and student share a backward, which wants one temperature."""
    config = config_of(tmp_path, "students=[hard]", "trials={hard:[{temperature:4.0},{}]}")
    metrics = run(config, tmp_path / "run", quiet=True, pictures=False)
    assert [one["settings"] for one in metrics["trials"]["hard"]] == [{"temperature": 4.0}, {}]
    assert settled(config, jobs(config)[0]).objective.temperature == 4.0
    assert settled(config, jobs(config)[1]).objective.temperature == 2.0


def test_a_budget_of_evaluations_is_spent_by_all(tmp_path: Path) -> None:
    hard = "{policy:search,policy.candidates:3,policy.steps:0,schedule:alternating,schedule.every:2}"
    config = config_of(
        tmp_path,
        "steps=20",
        "budget=evaluations",
        "students=[labels,kd,random,cutmixpick,label_adversary,hard]",
        f"trials={{hard:[{hard},{{policy:generator}},{{schedule:alternating,schedule.steps:2}}]}}",
    )
    (tmp_path / "run").mkdir()
    metrics = run(config, tmp_path / "run", quiet=True, pictures=False)
    budget = 20 * 8 * 16
    rows = [*metrics["students"].values(), *metrics["trials"]["hard"]]
    assert len({row["steps"] for row in rows}) > 3
    assert metrics["students"]["kd"]["steps"] == 40
    for row in rows:
        assert row["evaluations"] == pytest.approx(budget, rel=0.06)


def test_a_budget_wants_a_cost_that_is_known(tmp_path: Path) -> None:
    for overrides, message in (
        (["budget=seconds"], "wanted one of steps, evaluations"),
        (["budget=evaluations", "students=[kd,mixed]"], "mixed wants budget=steps"),
        (["budget=evaluations", "schedule@augmenter.schedule=threshold"], "threshold will cost is not known before"),
    ):
        config = config_of(tmp_path, *overrides)
        with pytest.raises(ValueError, match=message):
            Experiment(config, instantiate(config.data), tmp_path, progress_bar(quiet=True), Stop())
