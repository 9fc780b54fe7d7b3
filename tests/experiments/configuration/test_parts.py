"""Parts of a configuration that are made from what only the run knows."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.configuration.parts import completed
from hard_aug.policies import Gaussian, Policy
from hard_aug.synthesis import ImageSearch
from hard_aug.transforms import Affine, Color

SPEC = Affine().spec


def test_a_part_or_a_partial_of_one() -> None:
    policy = Gaussian(SPEC)
    assert completed(policy, Policy, SPEC, name="policy") is policy
    node = OmegaConf.create({"_target_": "hard_aug.policies.Gaussian", "_partial_": True, "std": 0.2})
    made = completed(instantiate(node), Policy, SPEC, name="policy")
    assert isinstance(made, Gaussian)
    assert made.size == len(SPEC)
    assert isinstance(completed(Gaussian, Policy, SPEC, name="policy"), Gaussian)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            OmegaConf.create({"std": 0.2}),
            "policy: expected Policy, or a node with `_partial_: true`.*got an object of DictConfig",
        ),
        (Affine(), "policy: an object of Affine does not take what it is given here"),
        (0.3, "got an object of float; check its _target_"),
        (partial(Color, brightness=0.2), "policy: Color does not take what it is given here: .* positional argument"),
        (lambda spec: spec, "which makes tuple; check its _target_"),
    ],
)
def test_anything_else_is_named(part: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        completed(part, Policy, SPEC, name="policy")


def test_a_search_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"search: expected ImageSearch.* got dict, which makes dict"):
        completed(dict, ImageSearch, {}, name="search")
