"""Diagnosis as curves: panels, labels, the student before, confidence bands, and other transforms."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

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
    assert figure.axes[0].get_ylabel() == "images (%)"
    assert figure.axes[0].get_xlabel() == "fraction of width"
    legend = figure.axes[4].get_legend()  # of six panels, the first empty one
    assert [text.get_text() for text in legend.get_texts()] == [
        "teacher's prediction unchanged",
        "student agrees, after",
        "student agrees, before",
        "transfer gap",
        "95 % confidence (8 images)",
    ]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name, row in (("teacher's prediction unchanged", after.rows[0]), ("student agrees, before", before.rows[0])):
        expected = row.student_agreement if "agrees" in name else row.teacher_consistency
        assert list(lines[name].get_xdata()) == list(row.values)
        assert list(lines[name].get_ydata()) == [100 * fraction for fraction in expected]
    assert lines["teacher's prediction unchanged"].get_linewidth() > lines["student agrees, after"].get_linewidth()
    alone = draw_diagnosis(before).axes[4].get_legend()
    assert [text.get_text() for text in alone.get_texts()][:2] == ["teacher's prediction unchanged", "student agrees"]


def test_a_diagnosis_with_another_number_of_values_before() -> None:
    before, after = (diagnose(Rows(), Pixels(), dots(), TRANSFORM, values=values) for values in (3, 5))
    lines = {line.get_label(): line for line in draw_diagnosis(after, before=before).axes[0].lines}
    assert list(lines["student agrees, before"].get_xdata()) == list(before.rows[0].values)
    assert list(lines["student agrees, after"].get_xdata()) == list(after.rows[0].values)


def test_names_with_any_character(tmp_path: Path) -> None:
    """Names are not read as TeX, also those of a user's own transform."""
    result = diagnose(Rows(), Pixels(), dots(), TRANSFORM, values=3)
    named = replace(result, rows=(replace(result.rows[0], name="$x$ & <y> 50 %_$", unit="US$"), *result.rows[1:]))
    figure = draw_diagnosis(named, title="a $ and \\frac{")
    figure.savefig(tmp_path / "named.png")
    assert figure.axes[0].get_title().startswith("$x$ & <y> 50 % $")


def test_the_legend_is_below_where_no_panel_is_empty_and_another_teacher_is_dashed() -> None:
    transform = Affine(scale=None, shear=None)
    before = diagnose(Pixels(), Rows(), dots(), transform, values=3)
    figure = draw_diagnosis(diagnose(Rows(), Rows(), dots(), transform, values=3), before=before)
    assert len(figure.axes) == 3
    assert "teacher's prediction unchanged, before" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_bands_are_wilson_intervals() -> None:
    low, high = _interval(np.array([0.0, 0.5, 1.0]), 10)
    assert low == pytest.approx([0, 23.66, 72.25], abs=0.01)
    assert high == pytest.approx([27.75, 76.34, 100], abs=0.01)


@pytest.mark.parametrize("transform", [Affine(), Affine(shear=None)])
def test_diagnoses_of_different_transforms(transform: Transform) -> None:
    one, other = (diagnose(Rows(), Rows(), dots(), kind, values=3) for kind in (TRANSFORM, transform))
    with pytest.raises(ValueError, match="different transforms"):
        draw_diagnosis(one, before=other)
    with pytest.raises(TypeError, match="before: expected a Diagnosis, got a partial of diagnose; call it"):
        draw_diagnosis(one, before=partial(diagnose, Rows()))  # type: ignore[arg-type]  # the mistake that is tested
