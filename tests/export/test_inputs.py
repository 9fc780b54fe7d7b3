"""What a `LearnedAugmentation` takes and refuses: images in [0, 1], and nothing beside them that has to move."""

from __future__ import annotations

from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from hard_aug import LearnedAugmentation
from hard_aug.policies import Conditional, Gaussian
from hard_aug.transforms import Affine, Color, Filter, PatchMix, Transform


def learned(transform: Transform | None = None) -> LearnedAugmentation:
    transform = Affine() if transform is None else transform
    return LearnedAugmentation(transform, Gaussian(transform.spec))


@dataclass
class Target:
    label: int
    more: Any


Pair = namedtuple("Pair", ["label", "more"])
BOXES = tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(12, 12))
SPATIAL: dict[str, Any] = {
    "boxes": BOXES,
    "mask": tv_tensors.Mask(torch.zeros(1, 12, 12)),
    "image": tv_tensors.Image(torch.zeros(1, 12, 12)),
    "video": tv_tensors.Video(torch.zeros(2, 1, 12, 12)),
    "picture": Image.new("L", (12, 12)),
    "mask without a class": torch.zeros(1, 12, 12),
    "array of channels last": np.zeros((12, 12, 3)),
}
NESTS: dict[str, Any] = {
    "[0]": lambda value: value,
    "[0]['target']": lambda value: {"target": value},
    "[0][1]['a']": lambda value: [0, {"a": value}],
    "[0].more": lambda value: Target(3, value),
    "[0]['b'].more": lambda value: {"b": Pair(3, value)},
    "[0][0].more.more['boxes']": lambda value: (Target(1, Target(3, {"boxes": value})),),
    "[0]['c'][0]": lambda value: OrderedDict(c=deque([value])),
    "[0]['d']": lambda value: UserDict(d=value),
}


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("kind", SPATIAL)
def test_what_would_have_to_move_with_the_image_is_refused(images: Tensor, kind: str, nest: str) -> None:
    augmentation, value = learned(), SPATIAL[kind]
    state = torch.get_rng_state()
    for given in (images[0], tv_tensors.Image(images[0])):
        with pytest.raises(TypeError, match="would not move with the image") as raised:
            augmentation(given, NESTS[nest](value))
        assert f" at others{nest}, " in str(raised.value)
        assert f"got a {type(value).__name__}" in str(raised.value)
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_of_any_form_go_through(images: Tensor) -> None:
    labels = torch.arange(8)
    others = (labels, {"soft": torch.rand(8, 5), "names": ["a"] * 8}, Target(3, None), np.arange(8), 4, None, Target)
    _, *found = learned()(images, *others)
    assert all(one is other for one, other in zip(found, others, strict=True))
    image, label, twin = learned()(images[0], torch.rand(12), images[0][0, 0])
    assert image.shape == (1, 12, 12)
    assert label.shape == twin.shape == (12,)


def test_a_pipeline_with_boxes_stops(images: Tensor) -> None:
    pipeline = v2.Compose([v2.RandomHorizontalFlip(), learned()])
    with pytest.raises(TypeError, match=r"got a BoundingBoxes of shape \(1, 4\) at others\[0\]\['boxes'\]"):
        pipeline(tv_tensors.Image(images[0]), {"boxes": BOXES, "labels": torch.tensor([1])})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": torch.rand(1, 12, 12)}, "got dict; pass the images in it by themselves"),
        ([torch.rand(1, 12, 12)], "got list; pass the images in it by themselves"),
        (Target(1, BOXES), "got Target; pass the images in it by themselves"),
        ((), "got tuple; pass the images in it by themselves"),
        (Image.new("L", (12, 12)), r"got Image; put v2\.ToImage\(\) before the augmentation"),
        (np.zeros((12, 12, 3)), r"got ndarray; put v2\.ToImage\(\) before the augmentation"),
        (BOXES, r"expected a tensor or a tv_tensors\.Image, got BoundingBoxes"),
        (torch.zeros(1, 12, 12, dtype=torch.int64), r"torch\.int64: expected floating point in \[0, 1\], or uint8"),
    ],
)
def test_what_is_no_image(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        learned()(wrong)
    if isinstance(wrong, Image.Image | np.ndarray):  # the advice works
        assert v2.Compose([v2.ToImage(), learned()])(wrong).shape[-2:] == (12, 12)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((12, 12), r"expected shape \(C, H, W\) or \(B, C, H, W\), got \(12, 12\)"),
        ((32, 24, 3), r"images \(32, 24, 3\) look like channels last; use images\.permute\(2, 0, 1\)"),
        ((8, 32, 32, 3), r"images \(8, 32, 32, 3\) look like channels last; use images\.permute\(0, 3, 1, 2\)"),
        ((8, 28, 28, 1), "look like channels last"),
    ],
)
def test_shapes_that_are_wrong(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learned()(torch.rand(shape))


def test_a_signal_is_no_image_with_its_channels_last() -> None:
    assert learned()(torch.rand(12, 100, 1)).shape == (12, 100, 1)


@pytest.mark.parametrize(
    ("augmentation", "problem", "advice"),
    [
        (
            learned(Color(brightness=None, contrast=None)),
            "this Color has only saturation and hue, which do not change images with 1 channel",
            "add brightness",
        ),
        (learned(PatchMix(image_size=8, patch_size=4)), "expected images of 8 x 8 pixels", "use PatchMix"),
        (
            LearnedAugmentation(Affine(), Conditional(Affine().spec, channels=3)),
            r"expects images \(B, 3, H, W\)",
            "create it",
        ),
    ],
)
def test_images_unlike_those_it_was_learned_on(
    images: Tensor, augmentation: LearnedAugmentation, problem: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=f"{problem}.* it was learned on$") as raised:
        augmentation(images)
    assert advice not in str(raised.value)  # of what was exported no setting can be changed
    assert advice in str(raised.value.__cause__)


@pytest.mark.parametrize("pixels", ["noise", "black and white"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [28, 33, 64])
def test_the_overshoot_of_an_interpolation_is_clamped(pixels: str, antialias: bool, size: int) -> None:
    source = torch.rand(2, 3, 32, 32)
    source = source if pixels == "noise" else source.round()
    resized = v2.Resize((size, size), v2.InterpolationMode.BICUBIC, antialias=antialias)(source)
    assert float(resized.max()) > 1.01
    augmentation = LearnedAugmentation(Affine(), Gaussian(Affine().spec), p=0.5)
    torch.manual_seed(1)
    found = augmentation(resized)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    torch.manual_seed(1)
    assert torch.equal(found, augmentation(resized.clamp(0, 1)))
    pipeline = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Resize(48, 3), learned()])
    picture = Image.fromarray((255 * source[0]).to(torch.uint8).permute(1, 2, 0).numpy())
    assert pipeline(picture).shape == (3, 48, 48)


def test_the_largest_overshoot_of_a_bicubic_kernel() -> None:
    signs = torch.tensor([0.0, 1.0, 1.0, 0.0])  # of the weights half-way between two pixels
    worst = (signs[:, None] == signs).float()  # 1 where the product of the weights is positive
    middle = F.interpolate(worst[None, None], (1, 1), mode="bicubic", align_corners=False)
    assert float(middle) == 1 + 57 / 128
    wide = torch.nn.functional.pad(middle, (10, 10, 10, 10), value=0.5)  # one such pixel in an image
    assert float(learned()(wide).max()) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda images: 2 * images - 1,
        lambda images: (images - 0.13) / 0.31,
        lambda images: torch.full_like(images, -0.42),  # a blank image, normalised
        lambda images: images.clone().index_fill_(3, torch.tensor([0]), 1.6),
        lambda images: 255 * images,
    ],
)
def test_values_further_outside_are_refused(images: Tensor, wrong: Any) -> None:
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"images lie in .*expected \[0, 1\].*before v2\.Normalize$"):
        learned()(wrong(images))
    batch = torch.cat((images, wrong(images)))  # one such image in a batch of good ones
    with pytest.raises(ValueError, match="images lie in"):
        learned()(batch)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(images: Tensor, value: float) -> None:
    spoiled = images.clone()
    spoiled[3, 0, 5, 5] = value
    with pytest.raises(ValueError, match="1 NaN or infinite value"):
        learned(Filter())(spoiled)


def test_gradients_pass_the_clamp(images: Tensor) -> None:
    leaf = (images + 0.01).requires_grad_()
    assert float(leaf.detach().max()) > 1.001
    learned()(leaf).sum().backward()
    assert float(leaf.grad.abs().sum()) > 0
