"""Policy history: records, states, and the figure over training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.policies import Conditional
from hard_aug.transforms import Affine, Color, Compose
from hard_aug.viz import PolicyHistory, draw_policy
from tests.helpers.figures import assert_saves


def test_a_history_of_a_conditional_policy_requires_images(teacher: nn.Module, student: nn.Module) -> None:
    policy = Conditional(Affine().spec, channels=1)
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), policy=policy)
    with pytest.raises(ValueError, match=r"record\(step, augmenter, images\)"):
        PolicyHistory(Affine().spec).record(0, augmenter)


def test_history_records_what_is_drawn(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    transform = Compose(Affine(), Color(saturation=None, hue=None))
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform)
    history = PolicyHistory(transform.spec)
    for early in (lambda: draw_policy(history), history.last):
        with pytest.raises(ValueError, match="nothing has been recorded"):
            early()
    with pytest.raises(TypeError, match="history: expected a PolicyHistory, got HardAugmenter"):
        draw_policy(augmenter)  # type: ignore[arg-type]  # the mistake that is tested
    assert history.scalars() == {}
    generator = augmenter.state_dict()["generator"]
    for step in range(3):
        history.record(step, augmenter)
    assert torch.equal(augmenter.state_dict()["generator"], generator)
    last = history.last()
    assert history.scalars()["policy/rotation_sd"] == last["rotation"]["sd"]
    assert repr(history) == "PolicyHistory(8 parameters, 3 records)"
    assert last["rotation"]["sd"] == pytest.approx(math.degrees(0.6) * 0.237, rel=0.1)  # erf(u / sqrt(2)) at std 0.3
    assert last["contrast"]["mean"] == pytest.approx(1.0, abs=0.05)
    figure = draw_policy(history, title="a title")
    assert [axis.get_title() for axis in figure.axes][:3] == ["translation x", "translation y", "rotation"]
    assert_saves(figure)
    other = PolicyHistory(transform.spec)
    other.load_state_dict(history.state_dict())
    assert other.last() == last
    assert other.uniform == history.uniform == [0.0] * 3
    with pytest.raises(ValueError, match=r"state: expected a history of"):
        PolicyHistory(Affine().spec).load_state_dict(history.state_dict())


def test_the_labels_of_a_figure(teacher: nn.Module, student: nn.Module) -> None:
    transform = Affine(translation=None, shear=None)
    history = PolicyHistory(transform.spec)
    history.record(0, HardAugmenter(teacher=teacher, student=student, transform=transform))
    figure = draw_policy(history)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "drawn: 5 to 95 %",
        "drawn: 25 to 75 %",
        "drawn: median",
        "identity",
        "random augmentation:\n25 and 75 %",
    ]
    assert [axis.get_ylabel() for axis in figure.axes] == ["degrees", "factor", "factor"]
    assert {axis.get_xlabel() for axis in figure.axes} == {"training step"}
    lines = [float(line.get_ydata()[0]) for line in figure.axes[1].lines if line.get_linestyle() == ":"]
    assert lines == pytest.approx([math.exp(-0.2), math.exp(0.2)])  # quartiles in the logarithm
    spread = [axis.texts[0].get_text().removeprefix("rel. std ") for axis in figure.axes]
    assert [float(text) for text in spread] == pytest.approx([0.41] * 3, abs=0.03)  # erf(u / sqrt(2)) at std 0.3


def test_warm_up_and_uniform_draws_are_marked(teacher: nn.Module, student: nn.Module) -> None:
    transform = Affine(translation=None, shear=None)
    exploration = Exploration(min_uniform_fraction=0.25)
    history = PolicyHistory(transform.spec)
    made = HardAugmenter(teacher=teacher, student=student, transform=transform, exploration=exploration)
    for step in (0, 50):
        history.record(step, made)
    figure = draw_policy(history, warmup_calls=20)
    assert_saves(figure)
    assert figure.axes[3].get_title() == "uniform random draws"
    assert figure.axes[3].lines[0].get_ydata() == pytest.approx([25, 25])
    texts = [text.get_text() for text in figure.axes[4].get_legend().get_texts()]
    assert texts[-1] == "warm-up"
    assert "warm-up" not in [text.get_text() for text in draw_policy(history).axes[4].get_legend().get_texts()]


def test_a_history_of_an_earlier_version_is_drawn_without_the_new_numbers(
    teacher: nn.Module, student: nn.Module
) -> None:
    history = PolicyHistory(Affine().spec)
    history.record(0, HardAugmenter(teacher=teacher, student=student, transform=Affine()))
    rows = {name: [row[:7] for row in rows] for name, rows in history.rows.items()}
    history.load_state_dict({"steps": [0], "rows": rows})
    assert not draw_policy(history).axes[0].texts
