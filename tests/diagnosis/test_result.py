"""Results of a diagnosis: ranges, transfer gaps, tables, and the gap that training closed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from torch import Tensor, nn

from hard_aug import Diagnosis, diagnose
from hard_aug.diagnosis import ParameterDiagnosis
from hard_aug.transforms import Affine
from tests.helpers.known_invariances import SIZE, Pixels, Rows, dots


@pytest.fixture
def diagnosis() -> Diagnosis:
    return diagnose(Rows(), Pixels(), dots(), Affine(scale=None, shear=None, rotation=45.0), values=9)


def test_the_range_of_consistent_predictions() -> None:
    fractions = (-1.0, -0.5, 0.0, 0.5, 1.0)
    consistency = (0.2, 1.0, 1.0, 0.8, 1.0)
    row = ParameterDiagnosis(
        "rotation", "degrees", fractions, (-30.0, -15.0, 0.0, 15.0, 30.0), consistency, *([consistency] * 3)
    )
    assert row.consistent_range(consistency, 0.9) == pytest.approx((-15 - 15 / 8, 7.5))
    assert row.consistent_range((1.0,) * 5, 0.9) == (-30, 30)
    assert row.consistent_range((0.0,) * 5, 0.9) == (0, 0)
    assert row.consistent_range(tuple(0.5 * one for one in consistency), 0.9) == row.consistent_range(consistency, 0.9)
    assert row.teacher_mean == pytest.approx((0.3 + 0.5 + 0.45 + 0.45) / 2)
    assert row.transfer_gap == 0


def test_an_untrained_student_is_reported(diagnosis: Diagnosis) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_tensor([0.0] * 4 + [1.0] + [0.0] * 11).expand(len(images), SIZE)

    assert diagnosis.agreement == 1
    untrained = diagnose(Rows(), Constant(), dots(), Affine(), values=3)
    assert untrained.agreement == pytest.approx(1 / 8)
    assert "agrees with the teacher on only 12 % of the clean images" in str(untrained)
    assert "No parameter" not in str(untrained)


def test_after_training_it_shows_how_much_of_the_gap_is_closed(diagnosis: Diagnosis) -> None:
    transform, many = Affine(scale=None, shear=None, rotation=45.0), dots().repeat(4, 1, 1, 1)
    after = diagnose(Rows(), Rows(), many, transform, values=9)
    assert after.missing == ()
    assert str(after).endswith(
        "disagrees with the teacher on 0 % of the 32 clean images.\nNo parameter adds 5 % to that."
    )
    before = diagnose(Rows(), Pixels(), many, transform, values=9)
    line = next(line for line in after.gap_closed(before).splitlines() if line.startswith("translation_x"))
    assert line.split()[1:] == ["38", "%", "0", "%", "100", "%"]
    other = diagnose(Rows(), Rows(), dots(), Affine(), values=3)
    with pytest.raises(ValueError, match="different transforms"):
        other.gap_closed(diagnosis)


def row(name: str, teacher: float, student: float, clean: float = 1.0) -> ParameterDiagnosis:
    """Constant fractions over the range, except at the identity."""
    teachers, students, ones = (teacher, 1.0, teacher), (student, clean, student), (1.0, 1.0, 1.0)
    return ParameterDiagnosis(name, "degrees", (-1.0, 0.0, 1.0), (-30.0, 0.0, 30.0), teachers, students, ones, ones)


def test_the_table_and_its_conclusion() -> None:
    result = Diagnosis((row("rotation", 1.0, 0.4), row("shear", 0.9, 0.9), row("hue", 1.0, 0.0)), 0.9, 50)
    assert result.missing == ("hue", "rotation")
    lines = str(result).splitlines()
    assert lines[0].split("  ")[0] == "parameter"
    for words in ("unit", "teacher range", "student range", "teacher unchanged", "student agrees", "transfer gap"):
        assert words in lines[0]
    assert lines[1].split() == [
        "rotation",
        "degrees",
        "-30",
        "to",
        "30",
        "-5",
        "to",
        "5",
        "100",
        "%",
        "70",
        "%",
        "30",
        "%",
    ]
    assert "student agrees: and the student's is the same" in lines[5]
    assert lines[6] == "range: where at least 90 % of the images at the identity are left"
    assert lines[7] == "The student disagrees with the teacher on 0 % of the 50 clean images."
    assert lines[8:] == ["Largest transfer gaps: hue, rotation."]
    nothing = Diagnosis((row("shear", 0.9, 0.85),), 0.9, 50)
    assert str(nothing).endswith("No parameter adds 5 % to that.")


def test_what_the_student_misses_on_clean_images_too_is_no_missing_invariance() -> None:
    """A student that is right on 80 % of the images whatever is done to them lacks no invariance."""
    result = Diagnosis((row("rotation", 1.0, 0.8, clean=0.8), row("shear", 1.0, 0.5, clean=0.8)), 0.9, 50)
    assert result.agreement == 0.8
    assert result.rows[0].transfer_gap == pytest.approx(0.2)
    assert result.missing == ("shear",)
    half = Diagnosis((row("rotation", 0.5, 0.4, clean=0.8),), 0.9, 50)
    assert half.missing == ()
    assert half.rows[0].consistent_range(half.rows[0].student_agreement, 0.5) == (-30, 30)


@pytest.mark.parametrize(
    ("student", "after", "images", "cell"),
    [
        (0.4, 0.7, 50, "50 %"),
        (0.4, 0.7, 19, "(only 19 images)"),
        (0.97, 1.0, 5000, "(gap below 2 %)"),
        (0.9, 1.0, 50, "(gap below 2 standard errors)"),
        (0.9, 1.0, 90, "100 %"),
        (0.4, 0.2, 50, "(gap grew)"),
    ],
)
def test_the_closed_fraction_or_why_there_is_none(student: float, after: float, images: int, cell: str) -> None:
    was, now = (Diagnosis((row("rotation", 1.0, one),), 0.9, images) for one in (student, after))
    lines = now.gap_closed(was).splitlines()
    assert lines[0].split() == ["parameter", "transfer", "gap", "before", "after", "gap", "closed"]
    assert lines[1].endswith(cell)


def test_no_fraction_is_given_for_a_student_that_did_not_agree_with_the_teacher() -> None:
    one = row("rotation", 1.0, 0.4)
    poor = Diagnosis((replace(one, student_agreement=(0.2, 0.33, 0.2)),), 0.9, 50)
    assert Diagnosis((one,), 0.9, 50).gap_closed(poor).endswith("(student agreed on 33 %)")


def test_all_numbers_as_json(diagnosis: Diagnosis) -> None:
    found = json.loads(json.dumps(diagnosis.to_dict()))
    assert found["missing"][0] == "translation_x"
    assert found["threshold"] == 0.9
    assert found["images"] == 8
    assert found["transfer_gap"] == {one.name: one.transfer_gap for one in diagnosis.rows}
    assert found["rows"][0]["student_agreement"] == list(diagnosis.rows[0].student_agreement)
