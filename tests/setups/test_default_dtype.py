"""Whole trainings under other defaults of torch, and with a module that holds the policy cast to another precision."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter, diagnose
from hard_aug.data import ConcatImageSet, ImageSet
from hard_aug.evaluation.corruptions import corrupt
from hard_aug.generative import HierarchicalVAE, latent_directions
from hard_aug.objectives import KL, ConfidenceGap, Constraint, Hinge, JensenShannon, LogitMSE, ResponseChange
from hard_aug.policies import Conditional, Gaussian, Generator, Search
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.synthesis import BestOfN, GuidedSampler, NoiseOptimizer
from hard_aug.transforms import (
    Affine,
    Color,
    Compose,
    Elastic,
    Filter,
    HierarchicalLatent,
    PatchMix,
    Perspective,
    VAELatent,
    measure_latent_std,
)
from hard_aug.viz import parameter_grid
from tests.helpers import generative_parts
from tests.helpers.defaults import defaults
from tests.helpers.generative_parts import autoencoder_kl, make_sampler
from tests.helpers.generative_parts import seeds as seeds_of

DTYPES = [torch.float64, torch.bfloat16, torch.float16]
PACKAGE = Path(__file__).parents[2] / "hard_aug"


def networks(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    place: dict[str, Any] = {"dtype": dtype, "device": "cpu"}
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(432, 5, **place))
    with torch.no_grad():
        teacher[1].weight.mul_(4)
    student = nn.Sequential(nn.Flatten(), nn.Linear(432, 8, **place), nn.Tanh(), nn.Linear(8, 5, **place))
    return teacher.eval(), student


def batches(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.rand(3, 6, 3, 12, 12, generator=generator, dtype=torch.float32, device="cpu").to(dtype))


def maps() -> Compose:
    return Compose(Affine(), Perspective(), Elastic(control=4), Color())


def filters() -> Compose:
    return Compose(Affine(), Filter(solarize=1.0, motion_blur=1.0, motion_length=5))


def mix() -> Compose:
    return Compose(Affine(), PatchMix(image_size=12, patch_size=4))


SETTINGS: dict[str, Any] = {
    "gaussian": lambda: {"transform": maps(), "schedule": Alternating(steps=2), "hard_fraction": 0.5},
    "generator": lambda: {"transform": maps(), "policy": Generator(maps().spec), "invariance": Constraint()},
    "conditional": lambda: {
        "transform": filters(),
        "policy": Conditional(filters().spec),
        "objective": JensenShannon(),
    },
    "search": lambda: {"transform": filters(), "policy": Search(filters().spec, candidates=2, steps=1)},
    "mix": lambda: {"transform": mix(), "schedule": Threshold(max_steps=2), "invariance": Hinge()},
    "joint": lambda: {"transform": maps(), "schedule": Joint(), "objective": KL(0.5)},
    "labels": lambda: {"transform": maps(), "objective": ConfidenceGap()},
    "logits": lambda: {"transform": filters(), "objective": LogitMSE()},
    "response": lambda: {"transform": maps(), "objective": ResponseChange()},
}


def trained(
    name: str, teacher: nn.Module, student: nn.Module, images: list[Tensor]
) -> tuple[HardAugmenter, dict[str, Tensor]]:
    """Train for three steps; return the augmenter, and the numbers of the training."""
    given = {"schedule": Alternating(), "exploration": Exploration(min_uniform_fraction=0.25), **SETTINGS[name]()}
    augmenter = HardAugmenter(teacher=teacher, student=student, **given)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    labels = torch.tensor([0, 1, 2, 3, 4, 0], device="cpu")
    found = {}
    for step, batch in enumerate(images):
        optimizer.zero_grad()
        hard = augmenter(batch, labels)
        loss = hard.loss()
        loss.backward()
        optimizer.step()
        found |= {f"{step}/images": hard.images, f"{step}/u": hard.u, f"{step}/loss": loss.detach()}
        found[f"{step}/disagreement"] = hard.disagreement
    found |= {f"policy/{name}": value for name, value in augmenter.policy.state_dict().items()}
    found |= {f"invariance/{name}": value for name, value in augmenter.invariance.named_buffers()}
    found["uniform_fraction"] = augmenter.state_dict()["uniform_fraction"]
    if name != "search":
        exported = augmenter.export(p=0.9)
        found["exported"] = exported(images[0], generator=torch.Generator().manual_seed(4))
    return augmenter, found


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("dtype", "device"), [*((dtype, None) for dtype in DTYPES), (torch.float32, "meta")])
def test_the_defaults_change_nothing(name: str, dtype: torch.dtype, device: str | None) -> None:
    _, expected = trained(name, *networks(), batches())
    with defaults(dtype, device):
        _, found = trained(name, *networks(), batches())
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].device) == (value.dtype, value.device), key
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_networks_and_images_of_the_default_dtype(name: str, dtype: torch.dtype) -> None:
    with defaults(dtype):
        augmenter, found = trained(name, *networks(dtype), batches(dtype))
    for key, value in found.items():
        assert bool(value.isfinite().all()), key
        assert value.dtype == (dtype if key.endswith("images") or key == "exported" else value.dtype), key
        if not key.endswith(("images", "exported", "loss", "disagreement")):
            assert value.dtype == torch.float32, key
    assert augmenter.dropped_steps == 0
    if name != "search":
        start = SETTINGS[name]().get("policy", Gaussian(augmenter.transform.spec)).state_dict()
        moved = {
            key: value for key, value in augmenter.policy.state_dict().items() if not torch.equal(value, start[key])
        }
        assert moved


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gaussian", "generator", "conditional"])
def test_a_module_that_holds_the_policy_is_cast(name: str, dtype: torch.dtype) -> None:
    teacher, student = networks()
    held, _ = trained(name, teacher, student, batches())
    other, _ = trained(name, *networks(), batches())
    module = nn.Module()  # as a module of Lightning's that registers what it trains
    module.student, module.policy = copy.deepcopy(student), held.policy
    module.invariance, module.exported = held.invariance, held.export()
    module.to(dtype)
    assert module.student[1].weight.dtype == dtype
    images = batches()[0]
    expected = other.export()(images, generator=torch.Generator().manual_seed(2))
    assert torch.equal(module.exported(images, generator=torch.Generator().manual_seed(2)), expected)
    half = module.exported(images.to(torch.bfloat16), generator=torch.Generator().manual_seed(2))
    assert half.dtype == torch.bfloat16
    for augmenter in (held, other):
        for batch in batches():
            augmenter(batch).loss()
    for one, two in zip(held.policy.parameters(), other.policy.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, two)


OTHER_PARTS = ("corruptions", "guided sampler", "best of n", "noise optimizer", "autoencoder", "directions", "levels")
OTHER_PARTS += ("diagnosis", "image set", "grid")


def other_parts() -> dict[str, Callable[[], Sequence[Any]]]:
    """Parts besides the augmenter that create tensors or draw, made with the usual defaults; each returns numbers."""
    torch.manual_seed(0)
    sampler, score, labels, seeds = make_sampler(), generative_parts.score(), generative_parts.labels(2), seeds_of(2)
    autoencoder, pictures = autoencoder_kl(), generative_parts.pictures(6)
    ladder = HierarchicalVAE(channels=1, size=8, blocks=((1, 1), (4, 1)), width=8, latent_channels=2)
    bytes_, images = torch.randint(255, (2, 3, 32, 32), dtype=torch.uint8), torch.rand(6, 1, 8, 8)
    network, part = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), ImageSet(images, torch.arange(6))
    u = torch.randn(6, VAELatent(autoencoder, grid=2, directions=2).size)
    levels = torch.randn(6, HierarchicalLatent(ladder, noise_seed=1).size)
    classes = generative_parts.CLASSES

    def search(made: Any) -> list[Tensor]:
        found = made(score, labels, seeds=seeds, classes=classes)
        return [found.images, found.scores_before, found.scores_after]

    return {
        "corruptions": lambda: [corrupt(bytes_, name, severity=2) for name in ("snow", "frost", "motion_blur", "fog")],
        "guided sampler": lambda: search(
            GuidedSampler(sampler, iterations=1, recurrence=2, smooth=1, smooth_sigma=0.1)
        ),
        "best of n": lambda: search(BestOfN(sampler, count=2)),
        "noise optimizer": lambda: search(NoiseOptimizer(sampler, iterations=2, backprop_steps=1)),
        "autoencoder": lambda: [VAELatent(autoencoder, grid=2, directions=2)(pictures, u)],
        "directions": lambda: [latent_directions(autoencoder, pictures, 2)],
        "levels": lambda: [
            HierarchicalLatent(ladder, noise_seed=1)(images, levels),
            *measure_latent_std(ladder, images),
        ],
        "diagnosis": lambda: [str(diagnose(network, network, images, Affine(), values=3, max_images=4))],
        "image set": lambda: [ConcatImageSet([part, part]).select(slice(4, 9)).images],
        "grid": lambda: [len(parameter_grid(network, network, images[:2], Affine(), "rotation", columns=3).axes)],
    }


@pytest.mark.parametrize("name", OTHER_PARTS)
@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, None), (torch.bfloat16, None), (torch.float32, "meta")])
def test_other_parts_change_nothing_either(name: str, dtype: torch.dtype, device: str | None) -> None:
    run = other_parts()[name]
    expected = run()
    with defaults(dtype, device):
        found = run()
    for one, other in zip(found, expected, strict=True):
        if not isinstance(one, Tensor):
            assert one == other
            continue
        assert (one.dtype, one.device) == (other.dtype, other.device)
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


#: Functions that create a tensor of torch's default dtype, unless they are told another.
FLOATING = {"zeros", "ones", "full", "empty", "rand", "randn", "linspace", "logspace", "eye", "tensor", "as_tensor"}
#: And those whose integers have one dtype everywhere, but not one device.
CREATING = {*FLOATING, "arange", "randint", "randperm"}


def creations(path: Path) -> Iterator[str]:
    """The creations of a tensor that leave dtype or device to the defaults; in an `nn.Parameter` both may be."""
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    parameters = [call for call in calls if ast.unparse(call.func) == "nn.Parameter" and "generative" in path.parts]
    exempt = {id(node) for call in parameters for node in ast.walk(call)}
    for call in calls:
        module, _, name = ast.unparse(call.func).rpartition(".")
        given = {keyword.arg for keyword in call.keywords}
        required = ({"dtype"} if name in FLOATING else set()) | {"device"}
        if module == "torch" and name in CREATING and id(call) not in exempt and not required <= given:
            yield f"{path.relative_to(PACKAGE)}:{call.lineno}: {ast.unparse(call)}"


def test_every_creation_of_a_tensor_says_its_dtype_and_device() -> None:
    assert [line for path in sorted(PACKAGE.rglob("*.py")) for line in creations(path)] == []
