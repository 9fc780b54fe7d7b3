"""The teacher's score of an augmentation: by drawing subsets as its authors do, and its known values."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Normalized, teacher_stddev
from hard_aug.diagnosis import TeacherScore
from hard_aug.policies import Conditional, Gaussian, Uniform
from hard_aug.transforms import Affine, Color, Compose, Filter, PatchMix, Transform, make_context
from tests.helpers.known_invariances import Rows, dots

ROTATION = Affine(translation=None, rotation=90.0, scale=None, shear=None)


def many(count: int = 256) -> Tensor:
    """`(count, 1, 12, 12)`: smooth blobs at random places."""
    axis = torch.linspace(-1, 1, 12)
    x, y = torch.rand(2, count, 1, 1, generator=torch.Generator().manual_seed(7)) * 1.4 - 0.7
    return torch.exp(-5 * ((axis[None, :, None] - y) ** 2 + (axis[None, None, :] - x) ** 2))[:, None]


def moving(reach: float) -> Affine:
    return Affine(translation=reach, rotation=None, scale=None, shear=None)


@pytest.mark.parametrize("transform", [ROTATION, Color(contrast=None, saturation=None, hue=None)])
def test_it_is_the_standard_deviation_of_the_mean_of_random_subsets(teacher: nn.Module, transform: Transform) -> None:
    images, size, repeats = many(1024), 32, 2000
    generator, means = torch.Generator().manual_seed(1), []
    policy = Uniform(transform.spec)
    with torch.no_grad():
        clean = teacher(images).softmax(1)
        views = [teacher(transform(images, policy.sample(images, generator))).softmax(1) for _ in range(4)]
        for repeat in range(repeats):
            rows = torch.randint(len(images), (size,), generator=generator)
            means.append(torch.cat((clean[rows], views[repeat % 4][rows])).mean(0))
    expected = float(torch.stack(means).std(0).mean())
    found = teacher_stddev(teacher, images, transform, subset=size, batch_size=1024)
    assert found.stddev == pytest.approx(expected, rel=0.04)
    assert (found.images, found.draws) == (1024, 4)


def test_the_identity_tells_nothing_new(teacher: nn.Module) -> None:
    found = teacher_stddev(teacher, many(), moving(0.2), Uniform(moving(0.2).spec, scale=1e-6))
    assert found.stddev == pytest.approx(found.clean_stddev, rel=1e-3)
    assert found.ratio == pytest.approx(1, abs=1e-3)
    assert found.spread == pytest.approx(0, abs=1e-4)
    assert found.kept == 1


def test_wider_ranges_change_more(teacher: nn.Module) -> None:
    scores = [teacher_stddev(teacher, many(), moving(reach)) for reach in (0.02, 0.1, 0.3)]
    for narrow, wide in itertools.pairwise(scores):
        assert narrow.clean_stddev == wide.clean_stddev
        assert narrow.stddev > wide.stddev
        assert narrow.spread < wide.spread
        assert narrow.kept > wide.kept


def test_a_teacher_that_is_invariant() -> None:
    transform, policy = Affine(rotation=None, scale=None, shear=None), None
    policy = Gaussian(transform.spec)
    with torch.no_grad():
        policy.mean.zero_()
        policy.log_std.copy_(torch.tensor([0.0, -9.0]))  # along x alone
    found = teacher_stddev(Rows(), dots(), transform, policy)
    assert found.ratio == pytest.approx(1, abs=1e-3)
    assert found.spread == pytest.approx(0, abs=1e-3)
    assert found.kept == 1
    assert teacher_stddev(Rows(), dots(), transform).spread > 0.1


class Darkness(nn.Module):
    """Predicts class 0 of bright images and class 1 of dark ones."""

    def forward(self, images: Tensor) -> Tensor:
        light = 40 * (images.mean((1, 2, 3)) - 0.1)
        return torch.stack((light, torch.zeros_like(light)), 1)


class Black(Affine):
    """Leaves nothing of an image."""

    def apply(self, images: Tensor, u: Tensor, context: Any = None) -> Tensor:
        return torch.zeros_like(images)

    render = apply


def test_images_that_are_all_destroyed_have_half_the_score_of_the_identity() -> None:
    found = teacher_stddev(Darkness(), many(), Black())
    assert found.ratio == pytest.approx(0.5)
    assert found.spread == 0
    assert found.kept == 0  # which says so


def test_the_scale_of_subsets_and_classes() -> None:
    """A teacher that is certain, of K equally frequent classes: `sqrt((1 / K) (1 - 1 / K) / n)`."""
    images, transform = dots().repeat(40, 1, 1, 1), Affine(rotation=None, scale=None, shear=None)
    still = Uniform(transform.spec, scale=1e-6)
    network = nn.Sequential(Rows(), Columns())
    found = teacher_stddev(network, images, transform, still)
    assert found.stddev == pytest.approx(math.sqrt(1 / 8 * 7 / 8 / 320), rel=0.01)
    assert teacher_stddev(network, images, transform, still, subset=80).stddev == pytest.approx(2 * found.stddev)


class Columns(nn.Module):
    """Keeps the eight classes that the images have."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, 4:12]


MIX = Compose(Filter(blur=None, gamma=None, sharpness=None, noise=0.2), PatchMix(image_size=12, patch_size=4))


@pytest.mark.parametrize("transform", [ROTATION, MIX])
def test_batches_of_any_size_give_the_same(teacher: nn.Module, transform: Transform) -> None:
    whole, parts, again = (teacher_stddev(teacher, many(50), transform, batch_size=size) for size in (64, 7, 64))
    assert whole == again
    assert whole.kept == parts.kept
    for name in ("stddev", "clean_stddev", "spread"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), rel=1e-4)
    assert teacher_stddev(teacher, many(50), transform, seed=1).stddev != whole.stddev


def test_predictions_on_mixes_are_compared_with_the_mix_of_predictions(teacher: nn.Module) -> None:
    images, policy = many(64), Uniform(MIX.spec)
    found = teacher_stddev(teacher, images, MIX, draws=2)
    generator, others = (torch.Generator().manual_seed(0) for _ in range(2))
    kept = []
    with torch.no_grad():
        logits = teacher(images)
        for _ in range(2):
            u = policy.sample(images, generator)
            context = make_context(MIX, images, generator=others, teacher_logits=logits)
            expected = MIX.reference(logits, u, context).argmax(1)
            kept.append((teacher(MIX.render(images, u, context)).argmax(1) == expected).double().mean())
    assert found.kept == pytest.approx(float(torch.stack(kept).mean()))


def test_a_policy_of_any_kind_draws_the_views(teacher: nn.Module) -> None:
    transform = moving(0.3)
    narrow, wide = (teacher_stddev(teacher, many(), transform, Gaussian(transform.spec, std=std)) for std in (0.1, 1.0))
    assert narrow.spread < wide.spread
    policy = Conditional(transform.spec, channels=1, std=0.1)
    state = torch.get_rng_state()
    assert teacher_stddev(teacher, many(), transform, policy).spread == pytest.approx(narrow.spread, rel=0.3)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_teacher_is_evaluated_and_left_as_it_was(teacher: nn.Module) -> None:
    expected = teacher_stddev(teacher, many(50), ROTATION)
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert teacher_stddev(teacher, many(50), ROTATION) == expected
    assert teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_images_that_are_normalised(teacher: nn.Module) -> None:
    mean, std = (0.25,), (0.5,)
    network = Normalized(teacher, mean=mean, std=std)
    expected = teacher_stddev(network, many(50), ROTATION)
    found = teacher_stddev(network, (many(50) - 0.25) / 0.5, ROTATION, normalization=(mean, std))
    assert found.stddev == pytest.approx(expected.stddev, rel=1e-4)


def test_a_choice_of_the_images(teacher: nn.Module) -> None:
    found = teacher_stddev(teacher, many(100), ROTATION, max_images=40)
    assert found.images == 40
    chosen = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:40].sort().values
    assert found == teacher_stddev(teacher, many(100)[chosen], ROTATION)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"draws": 1}, ValueError, "draws=1: expected an integer >= 2"),
        ({"subset": 0}, ValueError, "subset=0: expected an integer >= 1"),
        ({"max_images": 1}, ValueError, "max_images=1: expected an integer >= 2"),
        ({"batch_size": 0.5}, ValueError, "batch_size=0.5: expected an integer >= 1"),
        ({"seed": "a"}, ValueError, "seed='a'"),
        ({"images": many(1)}, ValueError, "images: expected at least two, whose probabilities are compared, got 1"),
        ({"images": 255 * many(4)}, ValueError, "Divide bytes by 255"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"expected integers \(8,\)"),
        ({"policy": Uniform(Affine().spec)}, ValueError, "the policy has 6 parameters and the transform 1"),
        ({"policy": ROTATION}, TypeError, "policy: expected a Policy, got Affine"),
        ({"transform": "affine"}, TypeError, "transform: expected a Transform, got str"),
        ({"teacher": len}, TypeError, "teacher: expected a Module"),
    ],
)
def test_arguments_that_are_refused(
    teacher: nn.Module, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"teacher": teacher, "images": many(8), "transform": ROTATION, **arguments}
    with pytest.raises(error, match=words):
        teacher_stddev(**given)


def test_a_ratio_without_a_denominator() -> None:
    assert math.isnan(TeacherScore(0.0, clean_stddev=0.0, spread=0.0, kept=1.0, images=2, draws=2).ratio)
