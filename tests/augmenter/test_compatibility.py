"""Parts that cannot work together raise at construction, and the error names what to use instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hard_aug import HardAugmenter
from hard_aug.compatibility import check_cuda_graph
from hard_aug.objectives import ConfidenceGap, Constraint, DecisionMaskedKL, Hinge, KeepRate, ResponseChange
from hard_aug.policies import Gaussian, Generator, GroupBandit, Search, Uniform
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, PatchMix
from hard_aug.utils.distributed import ProcessGroup

SPEC = Affine().spec
MIX = PatchMix(image_size=12, patch_size=4)

INCOMPATIBLE: list[tuple[dict[str, Any], str]] = [
    ({"policy": Gaussian(SPEC[:5])}, r"policy has 5 parameters and the transform 6; use Gaussian\(transform\.spec\)"),
    (
        {"policy": Search(SPEC), "schedule": Threshold()},
        r"Search optimises each image's own; use schedule=Alternating\(",
    ),
    (
        {"policy": Uniform(SPEC), "schedule": Threshold()},
        r"Uniform learns none by gradients; use schedule=Alternating\(",
    ),
    (
        {"policy": GroupBandit(SPEC), "schedule": Joint()},
        r"GroupBandit learns none by gradients; use schedule=Alternating\(",
    ),
    *(
        ({"objective": objective, "schedule": Threshold()}, rf"for {type(objective).__name__} .*or objective=KL\(\)")
        for objective in (ConfidenceGap(), DecisionMaskedKL(), ResponseChange())
    ),
    ({"policy": Search(SPEC), "invariance": Constraint(0.2)}, r"use invariance=Hinge\(epsilon=0\.2\)"),
    (
        {"policy": Search(SPEC), "invariance": KeepRate()},
        r"Search scores each image by itself; use invariance=Hinge\(\)",
    ),
    *(
        ({"transform": MIX, "objective": objective}, r"requires the prediction on one image.*use objective=KL\(\)")
        for objective in (ConfidenceGap(), ConfidenceGap(target="teacher"), ResponseChange())
    ),
    ({"cuda_graph": True}, "expected the networks on a CUDA device, and they are on cpu; leave it out"),
]


@pytest.mark.parametrize(("parts", "words"), INCOMPATIBLE)
def test_incompatible_parts(teacher: nn.Module, student: nn.Module, parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HardAugmenter(**{"teacher": teacher, "student": student, "transform": Affine(), **parts})


@pytest.mark.parametrize(
    "parts",
    [
        {"policy": Search(SPEC), "invariance": Hinge(0.2), "schedule": Alternating(every=2)},
        {"policy": Search(SPEC, proposal=Gaussian(SPEC)), "objective": ResponseChange()},
        {"policy": Generator(SPEC), "schedule": Threshold(), "invariance": Constraint(0.1)},
        {"policy": Uniform(SPEC), "invariance": Constraint(0.1)},
        {"policy": Generator(SPEC), "invariance": KeepRate(0.8)},
        {"policy": GroupBandit(SPEC), "schedule": Threshold(), "invariance": KeepRate()},
        {"transform": MIX, "schedule": Threshold()},
    ],
)
def test_compatible_parts(teacher: nn.Module, student: nn.Module, parts: dict[str, Any]) -> None:
    HardAugmenter(**{"teacher": teacher, "student": student, "transform": Affine(), **parts})


def test_policy_updates_that_a_cuda_graph_can_hold() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    single, several = ProcessGroup(cpu), ProcessGroup(cpu)
    several.count = 2
    gaussian, learned_search = Gaussian(SPEC), Search(SPEC, proposal=Gaussian(SPEC))
    for policy in (gaussian, learned_search):
        check_cuda_graph(cuda, policy=policy, schedule=Alternating(), processes=single)
    for device, policy, processes, words in (
        (cpu, gaussian, single, "expected the networks on a CUDA device"),
        (cuda, gaussian, several, r"expected a single process \(communication is not captured\)"),
        (cuda, Search(SPEC), single, "this Search learns nothing; leave it out"),
        (cuda, Uniform(SPEC), single, "this Uniform learns nothing; leave it out"),
    ):
        with pytest.raises(ValueError, match=words):
            check_cuda_graph(device, policy=policy, schedule=Alternating(), processes=processes)
    with pytest.raises(ValueError, match="and Joint makes none; leave it out"):
        check_cuda_graph(cuda, policy=gaussian, schedule=Joint(), processes=single)
