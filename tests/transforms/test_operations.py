"""Operations: values of torchvision, the identity to the bit, bounds, rows of their own, straight-through gradients."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional

from hard_aug import HardAugmenter
from hard_aug.calibration import calibrate
from hard_aug.policies import GroupBandit
from hard_aug.transforms import Color, Compose, Operations, menu
from tests.helpers.transform_parts import u_of

#: Of torchvision's codecs, which its own `functional.jpeg` still uses.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

OFF: dict[str, Any] = dict.fromkeys(("posterize", "equalize", "autocontrast", "jpeg"))
EVERY: dict[str, Any] = {"posterize": 6, "equalize": 1.0, "autocontrast": 1.0, "jpeg": 90}


def only(**on: Any) -> Operations:
    return Operations(**{**OFF, **on})


def pictures(batch: int, channels: int, *, size: int = 16) -> Tensor:
    """Bytes of smooth images with some noise, in the middle of the range: there is something to stretch and to code."""
    generator = torch.Generator().manual_seed(batch + channels)
    ramp = torch.linspace(60, 180, size)
    images = (ramp[:, None] + ramp)[None, None] / 2 + 12 * torch.randn(batch, channels, size, size, generator=generator)
    return images.clamp(30, 220).round().to(torch.uint8)


def as_floats(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255


def rows(transform: Operations, *values: dict[str, float]) -> Tensor:
    return torch.cat([u_of(transform, **value) for value in values]).to(torch.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_is_the_identity_to_the_bit(channels: int, dtype: torch.dtype) -> None:
    transform = Operations()
    images = torch.rand(3, channels, 12, 13, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(transform(images, torch.zeros(3, 4)), images)
    mixed = transform(images, torch.tensor([[0.0] * 4, [1.0] * 4, [0.0] * 4]))
    assert torch.equal(mixed[[0, 2]], images[[0, 2]])
    assert not torch.equal(mixed[1], images[1])
    assert mixed.dtype == dtype


def test_an_image_outside_the_range_is_clamped_only_where_it_is_touched() -> None:
    images = torch.tensor([-0.5, 0.5, 1.5]).expand(2, 1, 3, 3)
    found = only(posterize=6)(images, torch.tensor([[0.0], [0.2]]))
    assert torch.equal(found[0], images[0])
    assert torch.equal(found[1, 0, 0], torch.tensor([0, 128, 254]) / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("value", "removed"), [(0.4, 0), (0.6, 1), (2.4, 2), (3.0, 3), (5.6, 6), (6.0, 6)])
def test_posterize_removes_a_rounded_number_of_bits(channels: int, value: float, removed: int) -> None:
    transform, images = only(posterize=6), pictures(2, channels)
    u = rows(transform, {"posterize": min(value, 5.9999)}).expand(2, -1)
    expected = as_floats(functional.posterize(images, 8 - removed))
    assert torch.equal(transform(as_floats(images), u), expected)
    assert len(expected.unique()) <= 2 ** (8 - removed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("value", "removed"), [(0.4, 0), (0.6, 1), (30.0, 30), (89.7, 90)])
def test_jpeg_removes_a_rounded_part_of_the_quality(channels: int, value: float, removed: int) -> None:
    transform, images = only(jpeg=90), pictures(2, channels)
    u = rows(transform, {"jpeg": value}).expand(2, -1)
    expected = functional.jpeg(images, 100 - removed) if removed else images
    assert torch.equal(transform(as_floats(images), u), as_floats(expected))


def test_a_lower_quality_is_further_from_the_image() -> None:
    transform, images = only(jpeg=99), pictures(4, 3)
    u = rows(transform, *({"jpeg": value} for value in (1, 40, 80, 98)))
    errors = (transform(as_floats(images[:1]).expand(4, -1, -1, -1), u) - as_floats(images[:1])).abs().mean((1, 2, 3))
    assert errors.diff().min() > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["equalize", "autocontrast"])
def test_strength_blends_in_the_operated_image(name: str, channels: int) -> None:
    transform, images = only(**{name: 1.0}), pictures(3, channels)
    clean, operated = as_floats(images), as_floats(getattr(functional, name)(images))
    u = rows(transform, *({name: value} for value in (0.0, 0.25, 0.75)))
    u[0] = 9.0  # the end of the range
    assert torch.equal(transform(clean, u)[0], operated[0])
    weight = torch.tensor([1.0, 0.25, 0.75])[:, None, None, None]
    assert torch.allclose(transform(clean, u), clean + weight * (operated - clean), atol=1e-6)
    assert float((operated - clean).abs().mean()) > 0.05


def test_order() -> None:
    """Each works on what the one before made: JPEG, the last, codes the others' result as a file would."""
    transform, images = Operations(), pictures(1, 3)
    expected = functional.posterize(images, 4)
    expected = functional.autocontrast(functional.equalize(expected))
    u = torch.full((1, 4), 9.0)
    u[:, :1], u[:, 3:] = rows(only(posterize=6), {"posterize": 4}), rows(only(jpeg=90), {"jpeg": 50})
    assert torch.equal(transform(as_floats(images), u), as_floats(functional.jpeg(expected, 50)))


def test_a_range_ends_at_the_given_number() -> None:
    transform = Operations(posterize=3, equalize=0.5, autocontrast=0.25, jpeg=20)
    images = pictures(1, 3)
    assert {name: float(value) for name, value in transform.decode(torch.full((1, 4), 9.0)).items()} == {
        "posterize": 3,
        "equalize": 0.5,
        "autocontrast": 0.25,
        "jpeg": 20,
    }
    assert len(only(posterize=3)(as_floats(images), torch.full((1, 1), 9.0)).unique()) <= 32
    assert len(only(posterize=7)(as_floats(images), torch.full((1, 1), 9.0)).unique()) == 2


def test_spec() -> None:
    spec = Operations().spec
    assert [parameter.name for parameter in spec] == ["posterize", "equalize", "autocontrast", "jpeg"]
    assert [parameter.group for parameter in spec] == [parameter.name for parameter in spec]
    assert {parameter.block for parameter in spec} == {"operations"}
    assert all(parameter.one_sided and parameter.low == parameter.identity == 0 for parameter in spec)
    assert [parameter.name for parameter in Operations(equalize=None, jpeg=None).spec] == ["posterize", "autocontrast"]
    assert repr(Operations()) == "Operations(posterize=6, equalize=1.0, autocontrast=1.0, jpeg=90)"


@pytest.mark.parametrize("channels", [1, 3])
def test_each_sample_has_its_own_parameters(channels: int) -> None:
    transform, images = Operations(), as_floats(pictures(6, channels))
    u = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    u[torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.5] = 0
    together = transform(images, u)
    for i in range(6):
        assert torch.equal(together[i : i + 1], transform(images[i : i + 1], u[i : i + 1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_images_in_range_stay_there(dtype: torch.dtype) -> None:
    transform = Operations()
    assert transform.bounded
    generator = torch.Generator().manual_seed(0)
    images = (2 * torch.rand(16, 3, 12, 13, generator=generator) - 0.5).clamp(0, 1).to(dtype)
    found = transform(images, 2 * torch.randn(16, 4, generator=generator))
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_the_same_input_gives_the_same_output_and_is_left_alone() -> None:
    transform, images, u = Operations(), as_floats(pictures(4, 3)), torch.randn(4, 4)
    images_before, u_before, state = images.clone(), u.clone(), torch.get_rng_state()
    first = transform(images, u)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(transform(images, u), first)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(images, images_before)
    assert torch.equal(u, u_before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(copy.deepcopy(transform)(images, u), first)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(images, u), first)


def test_memory_format_and_expanded_images() -> None:
    images, u = as_floats(pictures(4, 3)), torch.full((4, 4), 0.7)
    found = Operations()(images.contiguous(memory_format=torch.channels_last), u)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, Operations()(images, u))
    assert torch.equal(Operations()(images[:1].expand(4, -1, -1, -1), u)[3:], Operations()(images[:1], u[:1]))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 1, 1, 1), (1, 3, 1, 7)])
def test_small_and_empty_batches(shape: tuple[int, ...]) -> None:
    assert Operations()(torch.rand(shape), torch.ones(shape[0], 4)).shape == shape


def test_gradients_pass_straight_to_the_images_and_none_to_the_parameters() -> None:
    images = as_floats(pictures(3, 3)).requires_grad_()
    u = torch.tensor([[0.0] * 4, [0.5] * 4, [1.0] * 4], requires_grad=True)
    found = Operations()(images, u)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    gradient, none = torch.autograd.grad((weights * found).sum(), [images, u], allow_unused=True)
    assert torch.equal(gradient, weights)
    assert none is None
    assert not Operations()(images.detach(), u).requires_grad


def test_in_a_composition_the_other_parameters_have_gradients() -> None:
    transform = Compose(Color(contrast=None, saturation=None, hue=None), only(posterize=6))
    images, u = as_floats(pictures(2, 1)), torch.full((2, 2), 0.4, requires_grad=True)
    (gradient,) = torch.autograd.grad(transform.render(images, u).sum(), u)
    assert gradient[:, 0].abs().min() > 0
    assert torch.equal(gradient[:, 1], torch.zeros(2))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: nn.Sequential(nn.Flatten(), nn.Linear(256, 3)) for name in ("teacher", "student")}


def test_a_policy_that_learns_by_gradient_is_refused() -> None:
    augmenter = HardAugmenter(transform=Operations(), **networks())
    with pytest.raises(ValueError, match=r"no gradient reaches the parameters .* policy=Search\(transform.spec\)"):
        augmenter(as_floats(pictures(8, 1)))


def test_a_group_bandit_learns_which_operation_matters() -> None:
    """The student follows the finest checks, which the lowest bit hardly changes and a low quality takes away."""
    transform, parts = only(posterize=1, jpeg=90), networks()
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2 - 0.5
    images = (as_floats(pictures(32, 1)) + 0.1 * checks).clamp(0, 1)
    with torch.no_grad():
        teacher, student = (parts[name][1] for name in ("teacher", "student"))  # type: ignore[index]
        student.weight.copy_(teacher.weight)
        student.bias.copy_(teacher.bias)
        student.weight[0] += checks.flatten()
        student.bias[0] -= (images * checks).sum((1, 2, 3)).mean()
    policy = GroupBandit(transform.spec, groups=(1, 1))
    augmenter = HardAugmenter(transform=transform, policy=policy, **parts)
    for _ in range(30):
        augmenter(images)
    assert policy.names == ("posterize", "jpeg")
    assert float(policy.weights[1]) == pytest.approx(0.95, abs=0.02)  # half of the floor is the other's


def test_calibration_narrows_what_changes_the_prediction() -> None:
    def is_dim(images: Tensor) -> Tensor:
        brightest = images.amax((1, 2, 3))
        return torch.stack((0.95 - brightest, brightest - 0.95), 1)

    images = as_floats(pictures(32, 1)).clamp(max=0.8)
    ranges = calibrate(is_dim, images, Operations()).ranges()
    assert ranges["posterize"] == pytest.approx((0, 6))  # only darkens
    assert 0.3 < ranges["autocontrast"][1] < 0.95
    narrow = Operations().narrowed({"jpeg": (0, 10), "equalize": (0, 0)})
    values = narrow.decode(torch.full((1, 4), 9.0))
    assert (float(values["jpeg"]), float(values["equalize"])) == (pytest.approx(10), 0)


def test_the_menu_takes_them_last() -> None:
    assert menu(**EVERY).spec == (*menu().spec, *Operations().spec)
    assert menu(jpeg=50).spec == (*menu().spec, *only(jpeg=50).spec)
    plain, transform = menu(noise=None), menu(noise=None, **EVERY)
    images, u = as_floats(pictures(2, 3)), torch.randn(2, transform.size, generator=torch.Generator().manual_seed(0))
    expected = Operations()(plain.render(images, u[:, : plain.size]), u[:, plain.size :])
    assert torch.equal(transform.render(images, u), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"posterize": 8}, "posterize=8: expected an integer from 1 to 7, the bits removed of 8; posterize=None"),
        ({"posterize": 0}, "posterize=0: expected an integer from 1 to 7"),
        ({"posterize": 2.5}, "posterize=2.5: expected an integer from 1 to 7"),
        ({"posterize": True}, "posterize=True: expected an integer"),
        ({"jpeg": 100}, "jpeg=100: expected an integer from 1 to 99, the quality removed of 100; jpeg=None"),
        ({"jpeg": 0.9}, "jpeg=0.9: expected an integer from 1 to 99"),
        ({"equalize": 0.0}, "equalize=0.0: expected a positive number; equalize=None switches it off"),
        ({"equalize": 1.5}, r"equalize=1.5: expected a fraction in \(0, 1\]"),
        ({"autocontrast": -1.0}, "autocontrast=-1.0: expected a positive number"),
        ({"autocontrast": float("nan")}, "autocontrast=nan: expected a positive number"),
        (OFF, "every part switched off has no effect; give at least one range"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Operations(**settings)


def test_channels() -> None:
    images, u = torch.rand(2, 4, 8, 8), torch.ones(2, 4)
    message = "autocontrast and jpeg expected images with 1 or 3 channels, got 4; use autocontrast=None, jpeg=None"
    with pytest.raises(ValueError, match=message):
        Operations()(images, u)
    with pytest.raises(ValueError, match=r"Operations with jpeg expected .* use jpeg=None"):
        only(jpeg=90)(images, u[:, :1])
    assert only(posterize=6, equalize=1.0)(images, u[:, :2]).shape == images.shape


def test_torchvision_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(ImportError, match=r"Operations requires torchvision.*: pip install 'hard_aug\[data\]'"):
        Operations()
