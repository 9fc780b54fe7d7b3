"""Diagnosis as curves: panels, labels, the student before, and other transforms."""

from __future__ import annotations

import pytest

from hard_aug import diagnose
from hard_aug.transforms import Affine, Transform
from hard_aug.viz import draw_diagnosis
from tests.helpers.figures import assert_saves
from tests.helpers.known_invariances import Pixels, Rows, dots

TRANSFORM = Affine(shear=None, rotation=None)


def test_panels_and_labels() -> None:
    before = diagnose(Rows(), Pixels(), dots(), TRANSFORM, values=5)
    after = diagnose(Rows(), Rows(), dots(), TRANSFORM, values=5)
    figure = draw_diagnosis(after, before=before, title="a title")
    assert_saves(figure)
    assert [axis.get_title() for axis in figure.axes] == [
        f"{row.name.replace('_', ' ')}: gap 0 %" for row in after.rows
    ]
    assert figure.axes[0].get_ylabel() == "predictions unchanged (%)"
    assert figure.axes[0].get_xlabel() == "fraction of width"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "transfer gap",
        "teacher",
        "student after",
        "student before",
    ]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for name, row in (("teacher", after.rows[0]), ("student before", before.rows[0])):
        expected = row.teacher_consistency if name == "teacher" else row.student_consistency
        assert list(lines[name].get_xdata()) == list(row.values)
        assert list(lines[name].get_ydata()) == [100 * fraction for fraction in expected]
    alone = draw_diagnosis(before)
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["transfer gap", "teacher", "student"]


@pytest.mark.parametrize("transform", [Affine(), Affine(shear=None)])
def test_diagnoses_of_different_transforms(transform: Transform) -> None:
    one, other = (diagnose(Rows(), Rows(), dots(), kind, values=3) for kind in (TRANSFORM, transform))
    with pytest.raises(ValueError, match="different transforms"):
        draw_diagnosis(one, before=other)
