"""Distributions side by side: relative standard deviations, labels, and what can not be drawn."""

from __future__ import annotations

import pytest
import torch

from hard_aug.transforms import Affine, Compose, Filter
from hard_aug.viz import draw_distributions
from tests.helpers.figures import assert_saves


def test_distributions_side_by_side() -> None:
    transform = Compose(Affine(rotation=None), Filter(gamma=None, sharpness=None, noise=None))
    generator = torch.Generator().manual_seed(0)
    wide, narrow = (transform.decode(s * torch.randn(4000, transform.size, generator=generator)) for s in (1.0, 0.01))
    figure = draw_distributions({"wide": wide, "narrow": narrow}, transform.spec)
    assert_saves(figure)
    assert len(figure.axes) == 2 * transform.size
    stds = [float(axis.texts[0].get_text().removeprefix("rel. std ")) for axis in figure.axes]
    assert stds[: transform.size] == pytest.approx([1.0] * transform.size, abs=0.05)
    assert max(stds[transform.size :]) < 0.05
    assert figure.axes[0].get_ylabel() == "wide"
    assert figure.legends[0].get_title().get_text().startswith("rel. std: standard deviation relative to uniform")
    with pytest.raises(ValueError, match="'narrow' lacks rotation"):
        draw_distributions({"narrow": narrow}, Affine().spec)
    with pytest.raises(ValueError, match="1 to 12 parameters"):
        draw_distributions({"wide": wide}, transform.spec * 5)
