"""`calibrate`: known boundaries are found, the teacher stays as it is, and bad input is refused."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hard_aug import Normalized, calibrate
from hard_aug.calibration.calibrate import MIN_REACH
from hard_aug.transforms import Affine, Color, Compose, Filter, Narrowed, PatchMix, Transform, make_context
from tests.helpers.calibration_parts import ByLabel, Levels, Offsets, grey, trained_network
from tests.helpers.defaults import defaults
from tests.helpers.known_invariances import SIZE, Rows, dots

BRIGHTNESS = Color(brightness=0.5, contrast=None, saturation=None, hue=None)


def kept(teacher: nn.Module, images: Tensor, transform: Transform, seed: int = 9) -> float:
    """Fraction of predictions that are kept on uniform draws from the ranges: of the probabilities of the classes."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(len(images), transform.size, generator=generator)
    shown = transform.render(images, u, make_context(transform, images, generator=generator))
    clean, found = teacher(images).softmax(1), teacher(shown).softmax(1)
    return float(found.gather(1, clean.argmax(1, keepdim=True)).sum() / clean.amax(1).sum())


@pytest.mark.parametrize(
    ("thresholds", "low", "high"),
    [((0.5,), -0.2, 0.5), ((0.6, 0.9), -0.1, 0.2), ((0.75,), -0.5, 0.05), ((0.1,), -0.5, 0.5)],
)
def test_the_boundary_of_brightness_on_each_side(thresholds: tuple[float, ...], low: float, high: float) -> None:
    result = calibrate(Levels(*thresholds), grey(level=0.7), BRIGHTNESS)
    found = result.ranges()["brightness"]
    step = 0.5 / 64
    for end, expected in zip(found, (low, high), strict=True):
        assert abs(expected) - step <= abs(end) <= abs(expected) + step  # draws are from the outermost tenth
    assert float(result.kept.min()) >= 0.9


def test_the_boundary_of_positions() -> None:
    """A shift by more than half a pixel along y changes the brightest row, and along x nothing does."""
    transform = Affine(translation=0.25, rotation=None, scale=None, shear=None)
    result = calibrate(Rows(), dots().repeat(32, 1, 1, 1), transform)
    (x, y) = result.reach.tolist()
    assert x == [1, 1]
    assert y == pytest.approx([0.5 / SIZE / 0.25] * 2, abs=1.1 / 64)


def test_a_strength_has_one_side() -> None:
    result = calibrate(Levels(0.7), grey(), Offsets(one_sided=True, strength=1))
    assert float(result.reach[0, 0]) == float(result.reach[0, 1]) == pytest.approx(0.4, abs=1 / 64)
    low, high = result.ranges()["strength_0"]
    assert (low, high) == (0, pytest.approx(0.2, abs=0.5 / 64))
    assert result.evaluations == 256 * (1 + 7 + 1 + 1)  # clean, the end, its group, all together


def test_a_factor_is_searched_in_its_logarithm() -> None:
    images = torch.cat((torch.full((256, 1, 2, 1), 0.5), torch.full((256, 1, 2, 1), 0.7)), dim=3)
    contrast = Color(brightness=None, contrast=4.0, saturation=None, hue=None)
    # The mean is 0.5 + 0.1 times the factor: 0.65 at 1.5, 0.55 at 0.5.
    low, high = calibrate(Levels(0.55, 0.65), images, contrast).ranges()["contrast"]
    assert high == pytest.approx(1.5, rel=4 ** (1 / 64) - 1)
    assert low == pytest.approx(0.5, rel=4 ** (1 / 64) - 1)


def test_the_parameters_of_a_group_are_narrowed_together() -> None:
    """Two offsets, uniform in (-0.2 k, 0.2 k), stay below 0.2 in sum with probability 1 - (1 - 1 / (2 k))^2."""
    teacher, images = Levels(0.3, 0.7), grey(2000)
    both = calibrate(teacher, images, Offsets(shift=2), max_images=None)
    expected = 0.4 * 0.5 / (1 - math.sqrt(0.1))
    assert torch.allclose(both.reach, torch.full((2, 2), expected), atol=0.4 / 64 + 0.02)
    assert len(both.reach.unique()) <= 3  # one factor for all
    apart = calibrate(teacher, images, Offsets(one=1, other=1), max_images=None)
    assert torch.allclose(apart.reach, torch.full((2, 2), 0.4), atol=1 / 64)
    # All together they are narrowed by one more factor, to keep 80 %.
    expected = 0.2 / (0.5 * float(apart.reach.mean())) / 2 / (1 - math.sqrt(0.2))
    assert apart.joint_scale == pytest.approx(expected, abs=1 / 64 + 0.05)
    assert 0.8 <= apart.joint_kept < 0.83
    assert both.joint_scale == 1


def test_a_group_of_many_has_one_reach() -> None:
    """Their sum is nearly normal: nine in (-r / 2, r / 2) have a standard deviation of r sqrt(9 / 12)."""
    transform, images = Offsets(grid=9, single=1), grey(2000)
    result = calibrate(Levels(0.3, 0.7), images, transform, max_images=None)
    assert len(result.reach[:9].unique()) == 1
    reach = float(result.reach[0, 0])
    assert reach == pytest.approx(0.2 / (1.645 * math.sqrt(9 / 12)), abs=1 / 64 + 0.01)
    assert torch.allclose(result.reach[9], torch.full((2,), 0.4), atol=1 / 64)
    only = transform.narrowed({**result.ranges(), "single_0": (0.0, 0.0)})
    assert 0.87 < kept(Levels(0.3, 0.7), grey(4000), only) < 0.94


def test_all_together_keep_the_wished_fraction_on_new_draws() -> None:
    transform = Compose(Affine(), Color(saturation=None, hue=None), Filter(blur=None, sharpness=None))
    network, count = trained_network().eval(), 400
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = calibrate(network, images, transform, joint_keep=0.9, max_images=None)
    narrowed = result.narrowed()
    assert isinstance(narrowed, Narrowed)
    assert result.joint_scale < 1
    with torch.no_grad():
        full, found = (kept(network, images, one) for one in (transform, narrowed))
    assert full < 0.8
    # Binomial errors of the calibration and of these draws, each at most 1.5 %, and one step of the bisection.
    assert 0.9 - 4 * math.sqrt(2) * 0.015 < found < 0.9 + 4 * math.sqrt(2) * 0.015 + 0.02


def test_where_nothing_is_tolerated_the_least_reach_is_left() -> None:
    class Exact(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            same = (images.mean((1, 2, 3)) == 0.5).float()
            return 100 * torch.stack((same, 1 - same), dim=1) - 50

    result = calibrate(Exact(), grey(), Offsets(shift=1))
    assert torch.equal(result.reach, torch.full((1, 2), MIN_REACH))
    assert float(result.kept.max()) < 1e-6
    assert result.joint_kept < 1e-6
    assert result.evaluations == 256 * (1 + 4 * 7)  # clean; two ends, their group, all together


def test_a_fraction_that_is_kept() -> None:
    """Images of many levels: the share that is at most d above the threshold is lost at an offset of -d."""
    images = torch.linspace(0.5, 1.0, 1000)[:, None, None, None].expand(1000, 1, 2, 2)
    for keep in (0.5, 0.8, 0.95):
        result = calibrate(Levels(0.4999), images, BRIGHTNESS, keep=keep, max_images=None)
        low, high = result.ranges()["brightness"]
        assert -low * 0.95 == pytest.approx(0.5 * (1 - keep), abs=0.01)
        assert high == 0.5
        assert result.keep == keep


def test_exactly_the_wished_fraction_is_enough() -> None:
    """Nine images of ten are 0.9 in any precision."""
    images = torch.cat((grey(9, level=1.0), grey(1, level=0.51)))
    result = calibrate(Levels(0.5), images, BRIGHTNESS)
    assert result.ranges()["brightness"][0] == pytest.approx(-0.5, abs=0.5 / 64)


def test_the_same_seed_is_the_same_result() -> None:
    network, images = trained_network(), torch.rand(20, 1, 8, 8)
    transform = Compose(Affine(scale=None, shear=None), Filter(gamma=None, blur=None, sharpness=None))
    found = [calibrate(network, images, transform, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(found[0].reach, found[1].reach)
    assert torch.equal(found[0].kept, found[1].kept)
    assert found[0].to_dict() == found[1].to_dict()
    assert found[0].to_dict() != found[2].to_dict()
    parts = calibrate(network, images, transform, batch_size=7)
    assert torch.equal(parts.reach, found[0].reach)
    with defaults(torch.float64, "meta"):
        other = calibrate(network, images, transform)
    assert other.reach.dtype == torch.float32
    assert torch.equal(other.reach, found[0].reach)


def test_a_choice_of_images() -> None:
    shown: list[Tensor] = []

    def teacher(images: Tensor) -> Tensor:
        shown.append(images.mean((1, 2, 3)))
        return Levels(-1.0)(images)  # type: ignore[no-any-return]  # a tensor

    images = torch.linspace(0, 1, 100)[:, None, None, None].expand(100, 1, 2, 2)

    def chosen(**settings: Any) -> Tensor:
        shown.clear()
        result = calibrate(teacher, images, BRIGHTNESS, **settings)
        assert result.images == len(shown[0])
        assert result.evaluations == sum(map(len, shown)) == 5 * result.images
        return shown[0]

    assert torch.equal(chosen(max_images=None), images[:, 0, 0, 0])
    assert torch.equal(chosen(max_images=100), images[:, 0, 0, 0])
    some = chosen(max_images=10)
    assert torch.equal(some, some.sort().values)
    assert len(some.unique()) == 10
    assert torch.equal(chosen(max_images=10), some)
    assert not torch.equal(chosen(max_images=10, seed=1), some)


def test_the_teacher_stays_as_it_is() -> None:
    network = trained_network()
    network[0].requires_grad_(False)
    network[1].eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    grads = [parameter.requires_grad for parameter in network.parameters()]
    images = torch.rand(20, 1, 8, 8, requires_grad=True)
    given = images.detach().clone()
    state = torch.get_rng_state()
    result = calibrate(network, images, Compose(Affine(), Filter()))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == grads
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(images, given)
    assert images.grad is None
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(result.reach, calibrate(network.eval(), images, Compose(Affine(), Filter())).reach)
    assert torch.is_grad_enabled()


def test_a_teacher_that_fails_stays_as_it_is() -> None:
    network = trained_network()
    with pytest.raises(ValueError, match="expected images with 1 or 3 channels, got 2"):
        calibrate(nn.Sequential(nn.Conv2d(2, 1, 1), network), torch.rand(4, 2, 8, 8), Color())
    assert network.training


def test_any_function_is_a_teacher() -> None:
    """Such as one outside of torch, which has neither a gradient nor a device."""

    def teacher(images: Tensor) -> Tensor:
        means = images.numpy().mean((1, 2, 3))
        return torch.from_numpy(100 * np.stack((means > 0.5, means <= 0.5), 1).astype(np.float32) - 50)

    found = calibrate(teacher, grey(level=0.7), BRIGHTNESS)
    expected = calibrate(Levels(0.5), grey(level=0.7), BRIGHTNESS)
    assert torch.equal(found.reach, expected.reach)


def test_normalised_images() -> None:
    network, images = trained_network().eval(), torch.rand(30, 1, 8, 8)
    pair = ((0.4,), (0.3,))
    expected = calibrate(Normalized(network, *pair), images, Affine())
    shown = (images - 0.4) / 0.3
    for teacher in (network, Normalized(network, *pair), lambda batch: network(batch)):
        found = calibrate(teacher, shown, Affine(), normalization=pair)
        assert torch.allclose(found.reach, expected.reach, atol=1.01 / 64)
    with pytest.raises(ValueError, match=r"images lie in \[-1\.3.*: expected \[0, 1\]"):
        calibrate(network, shown, Affine())


def test_labels_go_with_their_images() -> None:
    """Where the offset has the label's sign, only one side has a boundary."""
    images = torch.cat((grey(200, level=0.3), grey(200, level=0.7)))
    labels = torch.cat((torch.zeros(200), torch.ones(200))).long()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    result = calibrate(Levels(0.5), images[order], ByLabel(shift=1), labels=labels[order], max_images=100)
    assert result.reach.tolist() == [[pytest.approx(0.4, abs=1 / 64), 1]]
    with pytest.raises(ValueError, match="ByLabel requires the class of each image: pass labels="):
        calibrate(Levels(0.5), images, ByLabel(shift=1))
    with pytest.raises(ValueError, match=r"expected integers \(400,\), one per image"):
        calibrate(Levels(0.5), images, ByLabel(shift=1), labels=labels[:5])


def test_mixes_are_compared_with_the_mixed_prediction() -> None:
    """The probabilities are linear in the mean, so on a mix they are those of its reference."""

    class Linear(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            means = images.mean((1, 2, 3)).clamp(0.01, 0.98)
            return torch.stack((means, 0.99 - means, torch.full_like(means, 0.01)), dim=1).log()

    images = torch.linspace(0.1, 0.9, 32)[:, None, None, None].expand(32, 1, 4, 4)
    transform = PatchMix(image_size=4, patch_size=2)
    result = calibrate(Linear(), images, transform)
    assert torch.equal(result.reach, torch.ones(4, 2))
    # They do change the predictions of the images themselves.
    assert kept(Linear(), images, transform) < 0.9


@pytest.mark.parametrize("shows", [None, True])
def test_progress(capfd: pytest.CaptureFixture[str], shows: bool | None) -> None:
    calibrate(Levels(0.5), grey(8), BRIGHTNESS, progress=shows)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("calibration" in err) == bool(shows)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        *(
            ({name: value}, ValueError, rf"{name}={value}: expected a fraction in \(0, 1\)")
            for name in ("keep", "joint_keep")
            for value in (0, 1, -0.5, 1.5)
        ),
        ({"keep": math.nan}, ValueError, "keep=nan: expected a fraction"),
        ({"batch_size": 0}, ValueError, "batch_size=0: expected an integer >= 1"),
        ({"max_images": 0.5}, ValueError, r"max_images=0\.5: expected an integer >= 1"),
        ({"seed": "one"}, ValueError, "seed='one': expected an integer"),
        ({"teacher": 3}, TypeError, "teacher: expected a network or a function of images, got int"),
        ({"teacher": lambda images: images.numpy()}, TypeError, "the teacher returned ndarray: expected a tensor of"),
        ({"teacher": lambda images: images}, ValueError, r"expected floating-point logits of shape \(8, K\)"),
        ({"transform": Color}, TypeError, "transform: expected a Transform, got the class Color; pass an instance"),
        ({"images": torch.rand(0, 1, 2, 2)}, ValueError, "images: expected at least one image, got none"),
        ({"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}, TypeError, "images are torch.uint8"),
        ({"images": [1]}, TypeError, "images: expected a torch.Tensor, got list"),
        ({"images": torch.rand(1, 2, 2)}, ValueError, r"expected shape \(B, C, H, W\)"),
        ({"images": 2 * grey(level=0.7)}, ValueError, r"images lie in \[1\.4, 1\.4\]: expected \[0, 1\]"),
        ({"labels": torch.rand(8)}, ValueError, r"expected integers \(8,\), one per image"),
        ({"normalization": ((0.5,), (0.0,))}, ValueError, "expected finite numbers, those of std positive"),
    ],
)
def test_bad_input(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"teacher": Levels(0.5), "images": grey(8), "transform": BRIGHTNESS, **settings}
    with pytest.raises(error, match=words):
        calibrate(given.pop("teacher"), given.pop("images"), given.pop("transform"), **given)


def test_a_range_that_is_tolerated_at_its_end_alone_is_narrowed() -> None:
    """Bars are the same after half a turn, and not after a quarter."""

    def direction(images: Tensor) -> Tensor:
        across, along = (images.diff(dim=axis).abs().mean((1, 2, 3)) for axis in (2, 3))
        return 50 * torch.stack((across, along), dim=1)

    images = torch.zeros(64, 1, 16, 16)
    images[:32, :, 4::4] = images[32:, :, :, 4::4] = 1.0
    turns = Affine(translation=None, rotation=180.0, scale=None, shear=None)
    low, high = calibrate(direction, images, turns).ranges()["rotation"]
    assert -60 < low < 0 < high < 60
