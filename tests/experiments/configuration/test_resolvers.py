"""Resolvers: the library's defaults by reference, names of folders, and the texts of the help."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.configuration import resolvers
from experiments.configuration.resolvers import CONF, config_text, default_of, named_configs
from hard_aug.objectives import Penalty
from hard_aug.transforms import Affine

REFERENCES = sorted(
    {match for path in CONF.rglob("*.yaml") for match in re.findall(r"\$\{default_of:([^}]*)\}", path.read_text())}
)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=True)


def name(*overrides: str) -> str:
    return str(OmegaConf.select(composed(*overrides), "hydra.sweep.subdir"))


def test_a_reference_has_the_value_of_the_default() -> None:
    node = OmegaConf.create({"rotation": "${default_of:hard_aug.transforms.Affine,rotation}"})
    assert node.rotation == next(one.high for one in Affine().spec if one.name == "rotation")


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_reference_of_the_configurations_resolves(reference: str) -> None:
    path, argument = reference.split(",")
    assert isinstance(default_of(path, argument), float)


@pytest.mark.parametrize(
    ("argument", "message"), [("turn", "expected one of the arguments translation"), ("spec", "policies.Gaussian,spec")]
)
def test_an_argument_without_a_default_raises(argument: str, message: str) -> None:
    path = "hard_aug.policies.Gaussian" if argument == "spec" else "hard_aug.transforms.Affine"
    with pytest.raises(ValueError, match=message):
        default_of(path, argument)


def test_the_default_augmenter_has_the_library_s_defaults() -> None:
    config = composed()
    assert instantiate(config.augmenter.transform).spec == Affine().spec
    assert instantiate(config.augmenter.invariance).weight == Penalty().weight


def test_equal_runs_have_equal_names() -> None:
    first = name("seed=2")
    assert re.fullmatch(r"hard-seed2-[0-9a-f]{10}", first)
    assert name("seed=2", "threads=7", "device=cuda", "resume=false") == first
    assert len({first, name("seed=3"), name("seed=2", "steps=7"), name("seed=2", "method=kd")}) == 4
    assert name("method=kd").startswith("kd-seed0-")


def test_names_have_safe_characters_and_an_invalid_run_has_one() -> None:
    assert re.fullmatch(r"a_b_c-seed0-[0-9a-f]{10}", name("method.name='a/b=,[c'"))
    broken = name("steps=${nothing}")
    assert re.fullmatch(r"invalid-[0-9a-f]{16}", broken)
    assert name("steps=${nothing}") == broken != name("steps=${nothing}", "seed=1")


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a folder of configurations for the texts."""
    (tmp_path / "experiment").mkdir()
    monkeypatch.setattr(resolvers, "CONF", tmp_path)
    return tmp_path


def test_the_text_of_a_configuration_and_its_base(conf: Path) -> None:
    (conf / "train.yaml").write_text(
        "# Defaults.\ndefaults:\n  - data: digits  # small\n  - _self_\n  - override hydra/help: comments\n\n"
        "steps: 3  # of ${x} $Y\n\nhydra:\n  run:\n    dir: somewhere\n"
    )
    (conf / "demo.yaml").write_text("# Short.\ndefaults:\n  - train\n  - override data: few\n  - _self_\nsteps: 2\n")
    train = "# train.yaml\n# Defaults.\ndata: digits  # small\n\nsteps: 3  # of ${x} $Y"
    assert Template(config_text("train")).substitute() == train
    assert Template(config_text("demo")).substitute() == f"# demo.yaml\n# Short.\ndata: few\nsteps: 2\n\n{train}"


def test_named_configurations_have_their_first_sentence(conf: Path) -> None:
    run = "#   python -m experiments.train -m"
    cifar = f"# @package _global_\n# CIFAR in\n# colour; slow.\n{run} experiment=cifar\nsteps: 3\n"
    (conf / "experiment" / "cifar.yaml").write_text(cifar)
    (conf / "other.yaml").write_text("# Of another command.\n#   python -m experiments.generate\n")
    (conf / "asks.yaml").write_text(f"# Is it so? It is.\n{run} --config-name asks\n")
    lines = ["experiment=cifar    CIFAR in colour", "--config-name asks  Is it so?"]
    assert named_configs().splitlines() == lines


def test_the_real_configurations_have_texts() -> None:
    text = Template(config_text("train")).substitute()
    assert "seed: 0                  # of initialisation" in text
    assert "hydra" not in text
    listed = [line.split()[0] for line in named_configs().splitlines() if line.startswith("experiment=")]
    assert listed == sorted(f"experiment={path.stem}" for path in (CONF / "experiment").glob("*.yaml"))
