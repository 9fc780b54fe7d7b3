"""Diagnosis as curves: panels, labels, the student before, confidence bands, and other transforms."""

from __future__ import annotations

import numpy as np
import pytest

from hard_aug import diagnose
from hard_aug.transforms import Affine, Transform
from hard_aug.viz import draw_diagnosis
from hard_aug.viz.diagnosis import _interval
from tests.helpers.figures import assert_saves
from tests.helpers.known_invariances import Pixels, Rows, dots

TRANSFORM = Affine(shear=None, rotation=None)


def test_panels_and_labels() -> None:
    before = diagnose(Rows(), Pixels(), dots(), TRANSFORM, values=5)
    after = diagnose(Rows(), Rows(), dots(), TRANSFORM, values=5)
    gaps = [f"{100 * row.transfer_gap:.0f}" for row in before.rows]
    assert int(gaps[0]) > 20
    figure = draw_diagnosis(after, before=before, title="a title")
    assert_saves(figure)
    assert [axis.get_title() for axis in figure.axes][:4] == [
        f"{row.name.replace('_', ' ')}\ntransfer gap {gap} % → 0 %" for row, gap in zip(after.rows, gaps, strict=True)
    ]
    assert figure.axes[0].get_ylabel() == "predictions unchanged (%)"
    assert figure.axes[0].get_xlabel() == "fraction of width"
    legend = figure.axes[4].get_legend()  # of six panels, the first empty one
    assert [text.get_text() for text in legend.get_texts()] == [
        "teacher",
        "student after",
        "student before",
        "transfer gap",
        "95 % confidence (8 images)",
    ]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name, row in (("teacher", after.rows[0]), ("student before", before.rows[0])):
        expected = row.teacher_consistency if name == "teacher" else row.student_consistency
        assert list(lines[name].get_xdata()) == list(row.values)
        assert list(lines[name].get_ydata()) == [100 * fraction for fraction in expected]
    assert lines["teacher"].get_linewidth() > lines["student after"].get_linewidth()
    alone = draw_diagnosis(before).axes[4].get_legend()
    assert [text.get_text() for text in alone.get_texts()][:2] == ["teacher", "student"]


def test_the_legend_is_below_where_no_panel_is_empty_and_another_teacher_is_dashed() -> None:
    transform = Affine(scale=None, shear=None)
    before = diagnose(Pixels(), Rows(), dots(), transform, values=3)
    figure = draw_diagnosis(diagnose(Rows(), Rows(), dots(), transform, values=3), before=before)
    assert len(figure.axes) == 3
    assert "teacher before" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_bands_are_wilson_intervals() -> None:
    low, high = _interval(np.array([0.0, 0.5, 1.0]), 10)
    assert low == pytest.approx([0, 23.66, 72.25], abs=0.01)
    assert high == pytest.approx([27.75, 76.34, 100], abs=0.01)


@pytest.mark.parametrize("transform", [Affine(), Affine(shear=None)])
def test_diagnoses_of_different_transforms(transform: Transform) -> None:
    one, other = (diagnose(Rows(), Rows(), dots(), kind, values=3) for kind in (TRANSFORM, transform))
    with pytest.raises(ValueError, match="different transforms"):
        draw_diagnosis(one, before=other)
