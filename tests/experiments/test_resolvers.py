"""The resolver `default_of`: YAML files take the library's default values by reference."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.configuration.resolvers import default_of
from experiments.configuration.run import run_identity
from experiments.configuration.students import StudentSpec, resolve_config, student_specs
from hard_aug.objectives import Penalty
from hard_aug.transforms import Affine

CONF = Path(__file__).parents[2] / "experiments" / "conf"
REFERENCES = sorted(
    {match for path in CONF.rglob("*.yaml") for match in re.findall(r"\$\{default_of:([^}]*)\}", path.read_text())}
)


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
    with initialize_config_module("experiments.conf", version_base="1.3"):
        config = compose("train", ["students=[hard]", "trials={hard:[{transform:affine}]}"])
    assert instantiate(config.augmenter.transform).spec == Affine().spec
    assert instantiate(config.augmenter.invariance).weight == Penalty().weight
    (spec,) = student_specs(config)
    trial = resolve_config(config, spec).transform
    assert trial == resolve_config(config, StudentSpec("hard", "hard")).transform
    assert run_identity(config)["trials"]["hard"][0]["transform"] == OmegaConf.to_container(trial, resolve=True)
