"""Summary as bars: ranges, the frequency of each group, what is pale, and that 17 rows can be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matplotlib.colors import to_rgba

from hard_aug import Calibration
from hard_aug.policies import GroupBandit, Uniform
from hard_aug.summary import PolicySummary, summarize
from hard_aug.transforms import Affine, Elastic, menu
from hard_aug.viz import draw_summary
from hard_aug.viz.summary import UNUSED, USED
from tests.helpers.figures import assert_saves


def bandit_summary(*, calibrated: bool = True) -> PolicySummary:
    """Of a bandit on the menu that uses the rotation on 70 % of the images."""
    transform = menu()
    reach = torch.full((transform.size, 2), 0.5)
    reach[[parameter.name for parameter in transform.spec].index("rotation")] = torch.tensor([0.25, 0.75])
    policy = GroupBandit(transform.spec, groups=(1, 1))
    policy.set_reach(reach)
    weights = torch.full((len(policy.names),), 0.1 / 12)
    weights[[policy.names.index(name) for name in ("rotation", "translation")]] = torch.tensor([0.7, 0.2])
    policy.weights.copy_(weights)
    calibration = Calibration(transform, reach, torch.full_like(reach, 0.9), 0.9, 0.5, 0.8, 0.8, 64, 64)
    return summarize(transform, policy, calibration=calibration if calibrated else None, kept=0.88)


def test_ranges_and_frequencies() -> None:
    figure = draw_summary(bandit_summary(), title="a title")
    assert_saves(figure)
    ranges, uses = figure.axes
    assert [label.get_text() for label in ranges.get_yticklabels()][:3] == [
        "rotation",
        "translation x",
        "translation y",
    ]
    bars = [(round(bar.get_x()), round(bar.get_x() + bar.get_width())) for bar in ranges.patches]
    assert bars[:3] == [(-100, 100), (-25, 75), (-25, 75)]  # full, calibrated, drawn
    drawn = [bar for bar in ranges.patches if round(bar.get_height(), 6) == 0.4]
    assert [bar.get_facecolor() for bar in drawn] == [to_rgba(USED)] * 3 + [to_rgba(UNUSED)] * 14
    assert len(uses.patches) == 14  # one for each group
    assert uses.patches[0].get_width() == pytest.approx(70, abs=2)
    assert uses.patches[1].get_y() < 1 < 2 < uses.patches[1].get_y() + uses.patches[1].get_height()  # of two rows
    assert uses.texts[0].get_text() == f"{uses.patches[0].get_width():.0f} %"
    texts = [text.get_text() for text in ranges.texts]
    assert (texts[0], texts[-1]) == ("-45 to 135 (degrees)", "drawn range")
    assert uses.get_xlabel() == "pale: below 10 %"
    labels = ["identity", "full range", "calibrated range", "drawn range"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    assert figure.get_suptitle() == "a title\nThe teacher keeps 88 % of its predictions on hard images"


def test_without_a_calibration_and_without_hard_images() -> None:
    figure = draw_summary(replace(bandit_summary(calibrated=False), kept=None))
    assert len(figure.axes[0].patches) == 2 * 17
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["identity", "full range", "drawn range"]
    assert figure.get_suptitle() == ""


def test_no_texts_overlap() -> None:
    summary = bandit_summary()
    for rows in (summary.rows, tuple(replace(row, frequency=1.0) for row in summary.rows)):
        figure = draw_summary(replace(summary, rows=rows))
        figure.set_dpi(130)
        figure.draw_without_rendering()
        ranges, uses = figure.axes
        texts = [*ranges.texts, *uses.texts, *ranges.get_yticklabels(), ranges.title, uses.title]
        boxes = [text.get_window_extent() for text in texts]
        assert len(boxes) == 18 + 14 + 17 + 2 if rows is summary.rows else boxes
        for index, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
            assert not any(box.overlaps(other) for other in boxes[index + 1 :]), texts[index].get_text()
        right = uses.get_window_extent().x0
        assert all(box.x1 < right for box in boxes[:18])


def test_one_row_and_names_with_any_character() -> None:
    (row,) = (summary := summarize(Elastic(), Uniform(Elastic().spec))).rows
    figure = draw_summary(
        replace(summary, rows=(replace(row, name="$x$ & <y> 50 %_$", unit="US$"),)), title="a $ \\frac{"
    )
    assert_saves(figure)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "$x$ & <y> 50 % $"


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="summary: expected a PolicySummary"):
        draw_summary(str(summarize(Affine(), Uniform(Affine().spec))))  # type: ignore[arg-type]  # that is tested
