"""What the identity of a run, which names its folder, depends on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from experiments.configuration.identity import group_identity, run_hash, run_identity


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", list(overrides))


def test_the_hash_covers_what_the_outcome_depends_on() -> None:
    base = run_hash(composed())
    execution = ["threads=7", "device=cpu", "resume=false", "log_every=3", "checkpoint_every=9", "logger=[csv]"]
    selection = ["select_on=clean", "trials={kd:[['temperature=4.0']]}", "+data.in_memory=true"]
    assert run_hash(composed(*execution, "teacher_cache=elsewhere", *selection)) == base
    others = ["seed=1", "steps=3001", "method=kd", "task=rotation", "budget=nfe", "eval_every=7", "data.fraction=0.5"]
    others += ["teacher.data={fraction:0.5}", "augmenter.entropy_weight=0.1", "trainer=bf16", "trainer.ema=0.9"]
    others += ["initial={steps:5,batch_size:8,learning_rate:0.1}", "failure_metrics.judge=true", "student=conv"]
    found = [run_hash(composed(one)) for one in others]
    assert len({base, *found}) == len(others) + 1


@pytest.mark.parametrize(
    ("method", "override", "differs"),
    [
        ("kd", "augmenter.entropy_weight=0.1", False),
        ("kd", "transform@augmenter.transform=filter", False),
        ("kd", "augmenter=search", False),
        ("random", "augmenter.entropy_weight=0.1", False),
        ("random", "policy@augmenter.policy=generator", False),
        ("random", "augmenter.transform.rotation=5", True),
        ("random", "method.scale=0.5", True),
        ("hard", "policy@augmenter.policy=generator", True),
        ("hard", "augmenter.schedule.every=7", True),
        ("label_adversary", "policy@augmenter.policy=generator", True),
        ("oracle", "transform@augmenter.transform=filter", False),
    ],
)
def test_a_method_depends_on_the_augmenter_only_as_far_as_it_uses_it(method: str, override: str, differs: bool) -> None:
    plain, changed = (composed(f"method={method}", *more) for more in ([], [override]))
    assert (run_identity(plain) != run_identity(changed)) == differs


def test_interpolations_are_compared_by_value() -> None:
    assert run_hash(composed("test_shift=4")) != run_hash(composed("test_shift=4", "teacher.train_shift=3"))
    assert run_hash(composed("test_shift=4")) == run_hash(composed("test_shift=4", "teacher.train_shift=4"))
    identity = run_identity(composed("temperature=3.5"))
    assert identity["method"]["augmenter"]["objective"]["temperature"] == 3.5
    assert "augmenter" not in identity
    assert json.loads(json.dumps(identity)) == identity


def test_runs_of_one_table_have_the_same_group() -> None:
    group = group_identity(composed("method=hard"))
    assert group == group_identity(composed("method=kd", "seed=3", "augmenter=search", "threads=1"))
    assert {"method", "seed", "augmenter"}.isdisjoint(group)
    for other in ("steps=5", "data.fraction=0.5", "temperature=4.0", "task=rotation"):
        assert group_identity(composed(other)) != group


def test_settings_of_a_trial_are_in_the_hash() -> None:
    trials = "trials={kd:[['temperature=4.0'],['temperature=2.0']]}"
    found = {run_hash(composed("method=kd", trials, *more)) for more in ([], ["trial=0"], ["trial=1"])}
    assert len(found) == 3


def test_the_content_of_named_files_counts(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    hashes = set()
    for content in ("one", "two"):
        path.write_text(content)
        hashes.add(run_hash(composed(f"teacher.weights={path}")))
    assert len(hashes) == 2


def test_files_of_the_method_do_not_part_groups(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    generated, weights = composed("method=generated", f"method.folder={tmp_path}"), tmp_path / "w.pt"
    assert run_identity(generated)["contents"].keys() == {"method.folder"}
    assert group_identity(generated) == group_identity(composed("method=kd"))
    weights.write_text("one")
    own = f"teacher.weights={weights}"
    assert group_identity(composed(own))["contents"].keys() == {"teacher.weights"}
