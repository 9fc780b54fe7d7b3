"""Bad input: a clear error, and a state that is unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Gaussian
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Color

GOOD = torch.linspace(0, 1, 8 * 144).view(8, 1, 12, 12)


def with_value(value: float) -> Tensor:
    images = GOOD.clone()
    images[2, 0, 3, 4] = value
    return images


BAD: list[tuple[Any, type[Exception], str]] = [
    ((GOOD * 255).byte(), TypeError, r"uint8.*images\.float\(\) / 255"),
    (GOOD.numpy(), TypeError, r"torch\.Tensor.*ndarray"),
    (GOOD[0], ValueError, r"\(B, C, H, W\).*\(1, 12, 12\)"),
    (GOOD[:, :, :0], ValueError, "no pixels"),
    (GOOD * 2 - 1, ValueError, r"\[-1, 1\].*\[0, 1\].*normalization=\(mean, std\)\."),
    (GOOD.permute(0, 2, 3, 1), ValueError, r"\(8, 12, 12, 1\) look like channels last"),
    ({"image": GOOD, "label": torch.arange(8)}, TypeError, r"pass batch\['image'\]"),
    (GOOD * 255, ValueError, r"255.*Divide"),
    (with_value(float("nan")), ValueError, "1 NaN or infinite"),
    (with_value(float("inf")), ValueError, "1 NaN or infinite"),
]


@pytest.mark.parametrize(("images", "error", "words"), BAD)
@pytest.mark.parametrize("schedule", [Alternating(), Threshold()])
def test_bad_images(
    teacher: nn.Module, student: nn.Module, images: Any, error: type[Exception], words: str, schedule: Any
) -> None:
    augmenter, twin = (
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule) for _ in range(2)
    )
    with pytest.raises(error, match=words):
        augmenter(images)
    assert torch.equal(augmenter(GOOD).images, twin(GOOD).images)


class Returns(nn.Module):
    """Returns what a function makes of the images."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def logits(images: Tensor, classes: int = 5) -> Tensor:
    return images.flatten(1)[:, :classes]


OUTPUTS: list[tuple[Any, type[Exception], str]] = [
    (lambda x: (logits(x), None), TypeError, r"returned tuple.*logits \(B, K\)"),
    (lambda x: {"logits": logits(x)}, TypeError, "returned dict"),
    (lambda x: x, ValueError, r"expected floating-point logits of shape"),
    (lambda x: logits(x)[:-1], ValueError, r"expected floating-point logits of shape"),
    (lambda x: logits(x).argmax(1), ValueError, r"int64"),
    (lambda x: logits(x) / 0, ValueError, "NaN or infinite logits"),
]


@pytest.mark.parametrize(("function", "error", "words"), OUTPUTS)
@pytest.mark.parametrize("network", ["teacher", "student"])
def test_networks_that_return_no_logits(
    teacher: nn.Module, network: str, function: Any, error: type[Exception], words: str
) -> None:
    networks = {"teacher": teacher, "student": teacher, network: Returns(function)}
    augmenter = HardAugmenter(**networks, transform=Affine())
    before = {key: value.clone() for key, value in augmenter.policy.state_dict().items()}
    with pytest.raises(error, match=words) as raised:
        augmenter(GOOD)
    assert network in str(raised.value)
    assert all(torch.equal(value, before[key]) for key, value in augmenter.policy.state_dict().items())


def test_unequal_class_counts(teacher: nn.Module) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=Returns(lambda x: logits(x, 7)), transform=Affine())
    with pytest.raises(ValueError, match=r"teacher has 5 classes and the student 7"):
        augmenter(GOOD)


def test_inference_mode_raises_and_no_grad_does_not(teacher: nn.Module, student: nn.Module) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine())
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"inference_mode.*no_grad"):
        augmenter(GOOD)
    with torch.inference_mode():
        made = GOOD.clone()
    with pytest.raises(RuntimeError, match="inference"):
        augmenter(made)
    with torch.no_grad():
        assert len(augmenter(GOOD)) == 8


def test_a_colour_transform_on_grey_images(teacher: nn.Module, student: nn.Module) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Color())(GOOD)
    assert not torch.equal(hard.images, GOOD)
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Color(brightness=None, contrast=None))
    with pytest.raises(ValueError, match=r"only saturation and hue, .* images with 1 channel; add brightness"):
        augmenter(GOOD)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"teacher": lambda x: x}, TypeError, "teacher: expected a Module"),
        ({"student": None}, TypeError, "student"),
        ({"transform": nn.Identity()}, TypeError, "transform: expected a Transform"),
        ({"policy": Gaussian(Color().spec)}, ValueError, r"Gaussian\(transform\.spec\)"),
        ({"schedule": "alternating"}, TypeError, "schedule: expected a Schedule, got str"),
        ({"exploration": 0.15}, TypeError, "exploration: expected an Exploration, got float"),
        ({"hard_fraction": 0.0}, ValueError, r"hard_fraction=0\.0: expected a fraction in \(0, 1\]"),
        ({"hard_fraction": 1.5}, ValueError, r"hard_fraction=1\.5"),
        ({"warmup_calls": -1}, ValueError, "warmup_calls=-1: expected an integer >= 0"),
        ({"warmup_calls": 0.5}, ValueError, r"warmup_calls=0\.5"),
        ({"backend": "cuda"}, ValueError, "backend='cuda'"),
        ({"out_of_range": "ignore"}, ValueError, "out_of_range='ignore': expected one of raise, clamp"),
        ({"seed": 0.5}, ValueError, r"seed=0\.5: expected an integer"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate=0"),
    ],
)
def test_bad_constructions(
    teacher: nn.Module, student: nn.Module, kwargs: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        HardAugmenter(**{"teacher": teacher, "student": student, "transform": Affine(), **kwargs})


def test_arguments_are_keywords_only(teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(TypeError, match="positional"):
        HardAugmenter(teacher, student, Affine())  # type: ignore[misc]  # wrong on purpose
