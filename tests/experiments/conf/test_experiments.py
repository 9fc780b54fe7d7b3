"""The named experiments: they compose, their sweeps and trials are valid, and the command line takes precedence."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.configuration.checks import check_config
from hard_aug import HardAugmenter
from hard_aug.transforms import menu
from tests.helpers.method_parts import composed, small_method

EXPERIMENTS = ("cifar10", "cifar100", "convergence", "fashion_robust", "imagenet", "toy_rotation", "toy_shift")
#: Configurations of `experiments.train`, with the number of runs of a seed.
ROOTS = {
    "demo": 5,
    "fashion": 4,
    "collapse": 8,
    "invariances": 18,
    "batch_norm": 3,
    "vae_edits": 6,
    "ablation": 54,
    "ablation_search": 9,
    "menu": 3 * 14,
}


def with_hydra(name: str, *overrides: str) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, list(overrides), return_hydra_config=True)


def sweep(config: DictConfig) -> dict[str, list[str]]:
    params: dict[str, Any] = OmegaConf.to_container(config.hydra.sweeper.params)  # type: ignore[assignment]
    return {key: values.split(",") for key, values in params.items()}


@pytest.mark.parametrize(("name", "runs"), ROOTS.items())
def test_the_sweep_of_each_configuration(name: str, runs: int) -> None:
    config = with_hydra(name)
    check_config(config)
    assert len(list(product(*sweep(config).values()))) == runs
    assert config.hydra.sweep.dir == f"outputs/{'ablation' if name == 'ablation_search' else name}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOTS)
def test_every_value_of_a_sweep_composes(name: str) -> None:
    for key, values in sweep(with_hydra(name)).items():
        for value in values:
            composed(f"{key}={value}", name=name)


def test_the_demo_is_a_sweep_by_itself() -> None:
    assert str(with_hydra("demo").hydra.mode) == "RunMode.MULTIRUN"
    assert str(with_hydra("fashion").hydra.mode) != "RunMode.MULTIRUN"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_named_experiment(name: str) -> None:
    config = with_hydra("train", f"experiment={name}")
    check_config(config)
    assert config.hydra.sweep.dir == f"outputs/{name}"
    assert {"kd", "hard"} <= set(sweep(config)["method"])
    assert composed(f"experiment={name}", "steps=7", "student=vit").steps == 7  # the command line takes precedence


def test_equal_tuning() -> None:
    for name in ("fashion_robust", "cifar10"):
        config = with_hydra("train", f"experiment={name}")
        assert {method: len(trials) for method, trials in config.trials.items()} == dict.fromkeys(
            sweep(config)["method"], 2
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy_shift", "toy_rotation", "fashion_robust", "cifar10", "menu"])
def test_every_trial_builds_its_own_method(name: str) -> None:
    channels, size = (3, 32) if name == "cifar10" else (1, 28)
    root, experiment = (name, []) if name in ROOTS else ("train", [f"experiment={name}"])
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 5)) for _ in range(2)]
    for method, trials in composed(*experiment, name=root).trials.items():
        seen = []
        for overrides in trials:
            config = composed(*experiment, f"method={method}", *overrides, name=root)
            made = small_method(config, *networks, channels=channels, size=size)
            settings = OmegaConf.to_container(config.method, resolve=True)
            seen.append((settings, config.temperature, config.learning_rate))
            assert made.network_evaluations > 0
        assert all(seen.count(one) == 1 for one in seen)


def test_the_settings_of_fashion_robust() -> None:
    config = composed("experiment=fashion_robust", "method=hard", "augmenter.min_uniform_fraction=0.5")
    assert dict(config.teacher.data) == {"fraction": 1.0}
    assert config.data.fraction == 0.05
    augmenter = config.method.augmenter
    assert augmenter.policy._target_ == "hard_aug.policies.Generator"
    assert augmenter.invariance.weight == 0.3
    assert augmenter.min_uniform_fraction == 0.5
    assert [part._target_.split(".")[-1] for part in augmenter.transform._args_] == ["Affine", "Color", "Filter"]
    assert composed("experiment=fashion_robust", "method=random").method.transform == augmenter.transform


def test_the_menu_is_the_library_s_default_and_all_controls_draw_from_it() -> None:
    whole = menu().spec
    for method in ("hard", "random", "random_groups", "calibrated", "label_adversary"):
        config = composed(f"method={method}", name="menu")
        node = config.method.get("augmenter", config.method)
        assert instantiate(node.transform).spec == whole
    augmenter = composed("method=hard", name="menu").method.augmenter
    assert augmenter.calibration is True
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2)]
    default = HardAugmenter(teacher=networks[0], student=networks[1])
    assert repr(instantiate(augmenter.policy)(whole)) == repr(default.policy)
    assert repr(instantiate(augmenter.schedule)) == repr(default.schedule)
    assert composed("method=calibrated", name="menu").method.calibration is True


def test_the_pace_of_the_ablation() -> None:
    for schedule in ("alternating", "threshold"):
        found = composed(f"schedule@augmenter.schedule={schedule}", name="ablation").augmenter.schedule
        assert (found.every, found.fraction) == (3, 0.25)
    search = composed("policy@augmenter.policy=search", name="ablation_search").augmenter
    assert (search.schedule.every, search.schedule.fraction) == (1, 0.5)
    assert search.invariance._target_ == "hard_aug.objectives.Hinge"
