"""`Narrowed`: the identity, the distribution of draws on each side, nesting, and gradients."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug import HardAugmenter
from hard_aug.transforms import Affine, Color, Compose, Filter, Narrowed, PatchMix, Transform, make_context, menu
from hard_aug.transforms.narrowed import fractions_of, range_at
from tests.helpers.defaults import defaults
from tests.helpers.transform_parts import u_of

ROWS = 20_000
INNER = Compose(Affine(), Color(saturation=None, hue=None), Filter(noise=None))
#: Two-sided, asymmetric, logarithmic, of one side only, one-sided; `brightness` and `shear` stay as they are.
RANGES = {
    "translation": (-0.02, 0.1),
    "rotation": (-5.0, 20.0),
    "scale_x": (0.9, 1.1),
    "scale_y": (1.0, 1.2),
    "contrast": (0.8, 1.4),
    "gamma": (1.0, 1.0),
    "blur": (0.0, 0.5),
}


def standard(size: int, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def narrowed() -> Narrowed:
    return Narrowed(INNER, RANGES)


def is_uniform(fractions: Tensor) -> bool:
    """Kolmogorov's test against the uniform distribution on (0, 1)."""
    expected = (torch.arange(len(fractions)) + 0.5) / len(fractions)
    return float((fractions.sort().values - expected).abs().max()) < 1.63 / len(fractions) ** 0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inner", [INNER, menu()])
def test_zero_is_the_identity(inner: Transform, channels: int) -> None:
    images = torch.rand(3, channels, 12, 12)
    transform = inner.narrowed({"rotation": (-1.0, 30.0), "scale_x": (0.5, 1.0) if inner is not INNER else (0.9, 1.0)})
    context = make_context(transform, images, generator=torch.Generator().manual_seed(0))
    found = transform.render(images, torch.zeros(3, transform.size), context)
    assert torch.allclose(found, images, atol=1e-4)


def test_draws_are_uniform_on_each_side() -> None:
    transform = narrowed()
    values = transform.decode(standard(transform.size))
    for parameter in transform.spec:
        name, low, identity, high = parameter.name, parameter.low, parameter.identity, parameter.high
        drawn = values[name]
        slack = 1e-5 * (1 + high - low)
        assert low - slack <= float(drawn.min()) <= float(drawn.max()) <= high + slack, name
        if low == high:
            assert torch.equal(drawn, torch.ones(ROWS)), name
            continue
        if parameter.logarithmic:
            drawn, low, identity, high = drawn.log(), math.log(low), math.log(identity), math.log(high)
        if parameter.one_sided:
            assert is_uniform((drawn - low) / (high - low)), name
            continue
        above = standard(transform.size)[:, [p.name for p in transform.spec].index(name)] > 0
        for side, end in ((above, high), (~above, low)):
            if end == identity:
                assert torch.allclose(drawn[side], torch.full((int(side.sum()),), identity), atol=1e-6), name
            else:
                assert is_uniform((drawn[side] - identity) / (end - identity)), name


def test_the_spec_has_the_ranges() -> None:
    found = {p.name: (p.low, p.high) for p in narrowed().spec}
    full = {p.name: (p.low, p.high) for p in INNER.spec}
    assert found["translation_x"] == found["translation_y"] == (-0.02, 0.1)
    assert found["rotation"] == (-5, 20)
    assert {name: found[name] for name in ("shear", "brightness", "sharpness")} == {
        name: full[name] for name in ("shear", "brightness", "sharpness")
    }
    assert [p.identity for p in narrowed().spec] == [p.identity for p in INNER.spec]
    assert [p.group for p in narrowed().spec] == [p.group for p in INNER.spec]


def test_it_is_the_inner_transform_at_other_parameters() -> None:
    transform, images = narrowed(), torch.rand(4, 3, 12, 12)
    u = standard(transform.size, 4)
    assert torch.equal(transform(images, u), INNER(images, transform.inner_u(u)))
    assert torch.equal(transform.render(images, u), INNER.render(images, transform.inner_u(u)))
    for name, value in transform.decode(u).items():
        assert torch.equal(value, INNER.decode(transform.inner_u(u))[name])
    untouched = [p.name for p in INNER.spec].index("shear")
    assert torch.allclose(transform.inner_u(u)[:, untouched], u[:, untouched], atol=1e-4)


def test_the_same_value_is_the_same_image() -> None:
    images = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    inner, found = Affine(), Affine().narrowed({"rotation": (-5.0, 20.0)})
    turned = inner(images, u_of(inner, rotation=10.0))
    u = torch.zeros(1, 6, dtype=torch.float64)
    u[0, 2] = 0.6744897501960817  # the upper quartile: half of the way to the upper end
    assert torch.allclose(found(images, u), turned, atol=1e-9)
    assert float(found.decode(-u)["rotation"]) == pytest.approx(-2.5)


def test_a_narrowed_transform_is_narrowed_further() -> None:
    once = narrowed()
    twice = once.narrowed({"rotation": (-2.0, 0.0), "brightness": (0.0, 0.05)})
    assert twice.inner is INNER
    assert twice.ranges == {**once.ranges, "rotation": (-2, 0), "brightness": (0, 0.05)}
    assert {p.name: (p.low, p.high) for p in twice.spec}["contrast"] == (0.8, 1.4)
    u = standard(once.size, 5)
    direct = Narrowed(INNER, {**RANGES, "rotation": (-2.0, 0.0), "brightness": (0.0, 0.05)})
    assert torch.equal(twice.inner_u(u), direct.inner_u(u))
    assert twice.spec == direct.spec
    with pytest.raises(ValueError, match=r"rotation=\(-10, 10\): expected a range inside \(-5, 20\)"):
        once.narrowed({"rotation": (-10.0, 10.0)})


def test_a_group_is_all_of_its_parameters() -> None:
    transform = menu().narrowed({"elastic": (-0.1, 0.05), "scale": (0.9, 1.1), "scale_y": (1.0, 1.0)})
    ranges = {p.name: (p.low, p.high) for p in transform.spec}
    assert sum(value == (-0.1, 0.05) for value in ranges.values()) == 50
    assert ranges["scale_x"] == (0.9, 1.1)
    assert ranges["scale_y"] == (1, 1)
    # A name that is a parameter and a group is the parameter.
    both = Filter(motion_blur=1.0).narrowed({"motion_blur": (0.0, 0.2)})
    assert {p.name: p.high for p in both.spec}["motion_angle"] == 90


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"rotation": (-41.0, 5.0)}, r"rotation=\(-41, 5\): expected a range inside \(-40, 40\) that contains"),
        ({"rotation": (1.0, 5.0)}, r"rotation=\(1, 5\): expected a range inside .* contains the identity, 0"),
        ({"rotation": (5.0, -5.0)}, r"rotation=\(5, -5\)"),
        ({"scale": (1.1, 1.2)}, r"scale_x=\(1\.1, 1\.2\): .* contains the identity, 1"),
        ({"rotation": (math.nan, 5.0)}, r"rotation=\(nan, 5\)"),
        ({"rotation": 5.0}, r"rotation=5\.0: expected the lowest and the highest value, such as \(-5\.0, 20\.0\)"),
        ({"rotation": (1.0, 2.0, 3.0)}, r"rotation=\(1\.0, 2\.0, 3\.0\): expected the lowest"),
        ({"turn": (0.0, 1.0)}, "'turn' is no parameter or group; expected some of rotation, scale, shear, translation"),
    ],
)
def test_bad_ranges(ranges: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Affine(rotation=40.0).narrowed(ranges)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="inner: expected a Transform, got the class Affine; pass an instance"):
        Narrowed(Affine, {})  # type: ignore[arg-type]  # wrong on purpose
    transform = Affine().narrowed({"rotation": (-5.0, 5.0)})
    with pytest.raises(ValueError, match=r"Narrowed expected u of shape \(B, 6\), got \(2, 5\); its .* translation_x"):
        transform(torch.rand(2, 1, 8, 8), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        Color().narrowed({"hue": (0.0, 5.0)})(torch.rand(2, 2, 8, 8), torch.zeros(2, 4))


def test_gradients() -> None:
    transform = Compose(Affine(padding_mode="border"), Color()).narrowed(
        {"rotation": (-5.0, 20.0), "scale_x": (0.9, 1.1), "hue": (-2.0, 6.0)}
    )
    images = torch.rand(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    u = (0.8 * standard(transform.size, 2, torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(transform, (images, u))
    inner = transform.inner_u(u)
    expected = torch.autograd.grad(transform.inner(images, inner).sum(), (images, u))
    found = torch.autograd.grad(transform(images, u).sum(), (images, u))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_slope_is_that_of_the_side_and_zero_at_the_ends() -> None:
    transform = Affine().narrowed({"rotation": (-3.0, 15.0), "shear": (0.0, 0.0)})
    u = torch.tensor([[0.0, 0, -1e-3, 0, 0, 1], [0, 0, 1e-3, 0, 0, -1], [0, 0, 30, 0, 0, 0]], requires_grad=True)
    values = transform.decode(u)
    (slope,) = torch.autograd.grad(values["rotation"].sum() + values["shear"].sum(), u)
    at_zero = math.sqrt(2 / math.pi)  # of 2 Phi(u) - 1
    assert slope[:, 2].tolist() == pytest.approx([3 * at_zero, 15 * at_zero, 0], rel=1e-4)
    assert torch.equal(slope[:, 5], torch.zeros(3))
    assert bool(slope.isfinite().all())


def test_what_the_inner_transform_requires_is_required() -> None:
    mix = PatchMix(image_size=8, patch_size=4).narrowed({"mask": (0.0, 0.5)})
    assert (mix.requires_partner, mix.requires_noise, mix.requires_labels, mix.bounded) == (True, False, False, True)
    images, logits = torch.rand(4, 1, 8, 8), torch.randn(4, 5)
    context = make_context(mix, images, generator=torch.Generator().manual_seed(0), teacher_logits=logits)
    u = standard(mix.size, 4)
    expected = mix.inner.reference(logits, mix.inner_u(u), context)
    assert torch.equal(mix.reference(logits, u, context), expected)
    assert torch.equal(mix(images, u, context), mix.inner(images, mix.inner_u(u), context))
    assert Filter().narrowed({"noise": (0.0, 0.01)}).requires_noise
    assert not Filter().narrowed({}).bounded
    assert mix.pop_nonfinite_reports() == []


@pytest.mark.parametrize("name", ["rotation", "scale_x", "blur"])
@pytest.mark.parametrize("parts", [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (0.3, 0.9)])
def test_fractions_of_a_range_come_back(name: str, parts: tuple[float, float]) -> None:
    parameter = next(p for p in INNER.spec if p.name == name)
    low, high = range_at(parameter, *parts)
    below, above = fractions_of(parameter, low, high)
    assert above == pytest.approx(parts[1])
    assert below == pytest.approx(parts[1 if parameter.one_sided else 0])


def test_the_defaults_of_torch_and_copies_change_nothing() -> None:
    u = standard(INNER.size, 3)
    expected = narrowed().inner_u(u)
    with defaults(torch.float64, "meta"):
        made = narrowed()
        assert torch.equal(made.inner_u(u), expected)
    assert made.reach.dtype == torch.float32
    assert torch.equal(copy.deepcopy(made).inner_u(u), expected)
    assert torch.equal(made.inner_u(u.half()), made.inner_u(u.half().float()))


def test_repr_shows_the_ranges() -> None:
    transform = Color(hue=None, saturation=None).narrowed({"contrast": (0.8, 1.0)})
    inner = "Color(brightness=0.2, contrast=1.5, saturation=None, hue=None)"
    assert repr(transform) == f"Narrowed({inner}, {{'contrast': (0.8, 1)}})"


def test_it_is_learned_on(teacher: Any, plain_student: Any, images: Tensor) -> None:
    """Policies are those of its own ranges, and its place in a composition is that of any transform."""
    transform = Compose(Affine().narrowed({"rotation": (-5.0, 20.0)}), Color(saturation=None, hue=None))
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=transform)
    hard = augmenter(images)
    rotation = transform.decode(hard.u)["rotation"]
    assert -5 <= float(rotation.min()) < float(rotation.max()) <= 20
    assert bool(augmenter.policy.mean.any())
