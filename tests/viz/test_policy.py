"""Policy history: records, states, and the figure over training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
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
    with pytest.raises(ValueError, match=r"state: expected a history of"):
        PolicyHistory(Affine().spec).load_state_dict(history.state_dict())


def test_the_labels_of_a_figure(teacher: nn.Module, student: nn.Module) -> None:
    transform = Affine(translation=None, shear=None)
    history = PolicyHistory(transform.spec)
    history.record(0, HardAugmenter(teacher=teacher, student=student, transform=transform))
    figure = draw_policy(history)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "5 to 95 %",
        "25 to 75 %",
        "median",
        "identity",
        "quartiles of uniform augmentation",
    ]
    assert [axis.get_ylabel() for axis in figure.axes] == ["degrees", "factor", "factor"]
    assert {axis.get_xlabel() for axis in figure.axes} == {"training step"}
    lines = [float(line.get_ydata()[0]) for line in figure.axes[1].lines if line.get_linestyle() == ":"]
    assert lines == pytest.approx([math.exp(-0.2), math.exp(0.2)])  # quartiles in the logarithm
