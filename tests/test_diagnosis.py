"""The diagnosis, on players whose invariances are known by construction."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Diagnosis, diagnose
from hard_aug.diagnosis import ParameterDiagnosis
from hard_aug.transforms import Affine, Compose, Elastic, Filter, PatchMix, Transform
from hard_aug.viz import draw_diagnosis

SIZE = 16


class Rows(nn.Module):
    """Which row is the brightest: indifferent to what moves along x (and stays inside)."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * images.sum((1, 3))


class Pixels(nn.Module):
    """Which pixel of the middle columns is the brightest: sensitive to all that moves it."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * images[:, 0, :, SIZE // 2 - 1 : SIZE // 2 + 1].sum(2)


def dots() -> Tensor:
    """`(8, 1, 16, 16)`: one bright dot each, in the middle columns, in a row of its own."""
    images = torch.zeros(8, 1, SIZE, SIZE)
    for index in range(8):
        images[index, 0, index + 4, SIZE // 2 - 1 : SIZE // 2 + 1] = 1
    return images


@pytest.fixture
def diagnosis() -> Diagnosis:
    return diagnose(Rows(), Pixels(), dots(), Affine(scale=None, shear=None, rotation=45.0), values=9)


def test_it_names_what_only_the_teacher_ignores(diagnosis: Diagnosis) -> None:
    assert diagnosis.missing[0] == "translation_x"
    rows = {row.name: row for row in diagnosis.rows}
    assert rows["translation_x"].teacher_mean == pytest.approx(1)
    assert rows["translation_x"].teacher_keeps == (1,) * 9
    assert rows["translation_x"].to_transfer > 0.3
    assert rows["translation_y"].to_transfer < 0.05
    assert rows["translation_x"].student_keeps[4] == 1
    assert rows["translation_x"].values == pytest.approx([0.25 * 0.999 * i / 4 for i in range(-4, 5)], abs=1e-6)
    assert "Most to transfer: translation_x" in str(diagnosis)
    assert json.loads(json.dumps(diagnosis.to_dict()))["missing"][0] == "translation_x"


def test_it_says_that_an_untrained_student_has_no_answers(diagnosis: Diagnosis) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_tensor([0.0] * 4 + [1.0] + [0.0] * 11).expand(len(images), SIZE)

    assert diagnosis.agreement == 1
    untrained = diagnose(Rows(), Constant(), dots(), Affine(), values=3)
    assert untrained.agreement == pytest.approx(1 / 8)
    assert "to 12 % of the clean images only" in str(untrained)
    assert "Nothing to transfer" not in str(untrained)


def test_how_far_an_answer_is_kept() -> None:
    shares = (-1.0, -0.5, 0.0, 0.5, 1.0)
    keeps = (0.2, 1.0, 1.0, 0.8, 1.0)
    row = ParameterDiagnosis("rotation", "degrees", shares, (-30.0, -15.0, 0.0, 15.0, 30.0), keeps, *([keeps] * 4))
    assert row.reach(keeps, 0.9) == pytest.approx((-15 - 15 / 8, 7.5))
    assert row.reach((1.0,) * 5, 0.9) == (-30, 30)
    assert row.reach((0.0,) * 5, 0.9) == (0, 0)
    assert row.teacher_mean == pytest.approx((0.3 + 0.5 + 0.45 + 0.45) / 2)
    assert row.to_transfer == 0


def test_after_training_it_says_what_was_transferred(diagnosis: Diagnosis) -> None:
    after = diagnose(Rows(), Rows(), dots(), Affine(scale=None, shear=None, rotation=45.0), values=9)
    assert after.missing == ()
    assert "Nothing to transfer" in str(after)
    line = next(line for line in after.transferred(diagnosis).splitlines() if line.startswith("translation_x"))
    assert line.split()[1:] == ["38", "%", "0", "%", "100", "%"]
    other = diagnose(Rows(), Rows(), dots(), Affine(), values=3)
    with pytest.raises(ValueError, match="different transforms"):
        other.transferred(diagnosis)
    with pytest.raises(ValueError, match="different transforms"):
        draw_diagnosis(other, before=diagnosis)
    assert len(draw_diagnosis(after, before=diagnosis, title="after").axes) == 3


def test_large_blocks_are_one_row_and_mixes_have_partners() -> None:
    transform = Compose(Elastic(), Filter(blur=None, gamma=None, sharpness=None), PatchMix(image_size=16, patch_size=4))
    found = diagnose(Rows(), Pixels(), dots(), transform, values=5, batch_size=3)
    names = [row.name for row in found.rows]
    assert names == ["elastic (50 parameters)", "noise", "mask (16 parameters)"]
    for row in found.rows:
        assert row.shares[0] == 0
        assert row.teacher_keeps[0] == row.student_keeps[0] == 1
        assert len(row.values) == 3
    again = diagnose(Rows(), Pixels(), dots(), transform, values=5, batch_size=3)
    assert again == found
    assert found.rows[0].student_keeps[-1] < 1


@pytest.mark.parametrize(
    "transform",
    [
        Affine(),
        Elastic(),
        Compose(Filter(blur=None, gamma=None, sharpness=None, noise=0.5), PatchMix(image_size=16, patch_size=4)),
    ],
)
def test_batches_of_any_size_give_the_same(transform: Transform) -> None:
    whole, parts = (diagnose(Rows(), Pixels(), dots(), transform, values=5, batch_size=size) for size in (8, 3))
    for row, other in zip(whole.rows, parts.rows, strict=True):
        assert row.teacher_keeps == pytest.approx(other.teacher_keeps)
        assert row.student_keeps == pytest.approx(other.student_keeps)
        assert row.student_change == pytest.approx(other.student_change, abs=1e-5)


def test_stages_of_one_kind_are_apart() -> None:
    found = diagnose(Rows(), Pixels(), dots(), Compose(Affine(), Filter(), Affine()), values=3)
    assert [row.name for row in found.rows if "translation_x" in row.name] == ["translation_x", "translation_x_2"]


def test_normalised_images() -> None:
    images, transform = dots(), Affine(scale=None, shear=None)
    expected = diagnose(Rows(), Pixels(), images, transform, values=3)
    assert (
        diagnose(Rows(), Pixels(), (images - 0.5) / 0.25, transform, values=3, input_normalization=([0.5], [0.25]))
        == expected
    )
    with pytest.raises(ValueError, match="input_normalization"):
        diagnose(Rows(), Pixels(), (images - 0.5) / 0.25, transform)


def test_networks_and_generators_are_left_alone(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    buffers = {name: value.clone() for name, value in student.state_dict().items()}
    modes = [module.training for module in student.modules()]
    state = torch.get_rng_state()
    diagnose(teacher, student, images, Affine(), values=3)
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    for settings in ({"values": 2}, {"values": 3.5}, {"kept": 1.0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}=.*wanted a"):
            diagnose(teacher, student, images, Affine(), **settings)  # type: ignore[arg-type]  # from a list
    with pytest.raises(ValueError, match="at least one image"):
        diagnose(teacher, student, images[:0], Affine())
    with pytest.raises(ValueError, match="NaN"):
        diagnose(teacher, student, images * float("nan"), Affine())
    with pytest.raises(ValueError, match="the teacher has 5 classes and the student 144"):
        diagnose(teacher, nn.Flatten(), images, Affine())
    with pytest.raises(TypeError, match="transform: wanted a Transform"):
        diagnose(teacher, student, images, "affine")  # type: ignore[arg-type]  # the mistake that is tested
