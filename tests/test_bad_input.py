"""Bad input: a clear error, and everything as it was before the call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Gaussian
from hard_aug.schedules import Alternating, Joint
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
    (GOOD * 2 - 1, ValueError, r"\[-1, 1\].*\[0, 1\].*Normalized"),
    (GOOD * 255, ValueError, r"255.*Divide"),
    (with_value(float("nan")), ValueError, "1 NaN or infinite"),
    (with_value(float("inf")), ValueError, "1 NaN or infinite"),
]


@pytest.mark.parametrize(("images", "error", "words"), BAD)
@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_bad_images(
    teacher: nn.Module, student: nn.Module, images: Any, error: type[Exception], words: str, schedule: Any
) -> None:
    augmenter, twin = (
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule) for _ in range(2)
    )
    with pytest.raises(error, match=words):
        augmenter(images)
    assert torch.equal(augmenter(GOOD).images, twin(GOOD).images)


class Answers(nn.Module):
    """Gives back what it is told to."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


def logits(images: Tensor, classes: int = 5) -> Tensor:
    return images.flatten(1)[:, :classes]


ANSWERS: list[tuple[Any, type[Exception], str]] = [
    (lambda x: (logits(x), None), TypeError, r"returned tuple.*logits \(B, K\)"),
    (lambda x: {"logits": logits(x)}, TypeError, "returned dict"),
    (lambda x: x, ValueError, r"wanted floating-point logits of shape"),
    (lambda x: logits(x)[:-1], ValueError, r"wanted floating-point logits of shape"),
    (lambda x: logits(x).argmax(1), ValueError, r"int64"),
    (lambda x: logits(x) / 0, ValueError, "NaN or infinite logits"),
]


@pytest.mark.parametrize(("answer", "error", "words"), ANSWERS)
@pytest.mark.parametrize("player", ["teacher", "student"])
def test_models_that_return_no_logits(
    teacher: nn.Module, player: str, answer: Any, error: type[Exception], words: str
) -> None:
    players = {"teacher": teacher, "student": teacher, player: Answers(answer)}
    augmenter = HardAugmenter(**players, transform=Affine())
    before = {key: value.clone() for key, value in augmenter.policy.state_dict().items()}
    with pytest.raises(error, match=words) as raised:
        augmenter(GOOD)
    assert player in str(raised.value)
    assert all(torch.equal(value, before[key]) for key, value in augmenter.policy.state_dict().items())


def test_unequal_class_counts(teacher: nn.Module) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=Answers(lambda x: logits(x, 7)), transform=Affine())
    with pytest.raises(ValueError, match=r"teacher has 5 classes and the student 7"):
        augmenter(GOOD)


def test_inference_mode_is_refused_and_no_grad_is_not(teacher: nn.Module, student: nn.Module) -> None:
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
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Color())
    with pytest.raises(ValueError, match=r"3 channels.*saturation=None, hue=None"):
        augmenter(GOOD)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"teacher": lambda x: x}, TypeError, "teacher: wanted a Module"),
        ({"student": None}, TypeError, "student"),
        ({"transform": nn.Identity()}, TypeError, "transform: wanted a Transform"),
        ({"policy": Gaussian(Color().spec)}, ValueError, r"Gaussian\(transform\.spec\)"),
        ({"schedule": "joint"}, TypeError, "Alternating, Threshold or Joint"),
        ({"spread_weight": -1.0}, ValueError, "spread_weight=-1"),
        ({"spread_weight": float("nan")}, ValueError, "spread_weight=nan"),
        ({"spread_floor": 1.5}, ValueError, "spread_floor=1"),
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
