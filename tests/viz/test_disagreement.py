"""Histograms of the disagreement: medians, fractions, and values that raise."""

from __future__ import annotations

import pytest
import torch

from hard_aug.viz import draw_disagreement
from tests.helpers.figures import assert_saves


def test_disagreement_before_and_after() -> None:
    before, after = torch.logspace(-1, 1, 101), torch.logspace(-3, -1, 101)
    figure = draw_disagreement({"before": before, "after": after, "none": torch.zeros(3)}, title="a title")
    assert_saves(figure)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "before: median 1",
        "after: median 0.01",
        "none: median 1e-06",
    ]
    for axis in figure.axes:
        assert sum(bar.get_height() for bar in axis.patches) == pytest.approx(100)
    assert figure.axes[-1].get_xlabel() == "disagreement (nats)"
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_disagreement({})
    for wrong in (torch.tensor([1.0, float("nan")]), torch.tensor([-1.0]), torch.zeros(0)):
        with pytest.raises(ValueError, match="'odd': expected"):
            draw_disagreement({"odd": wrong})
