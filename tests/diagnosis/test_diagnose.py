"""The diagnosis, on networks whose invariances are known by construction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Diagnosis, diagnose
from hard_aug.transforms import Affine, Compose, Elastic, Filter, PatchMix, Transform
from tests.helpers.known_invariances import Pixels, Rows, dots


@pytest.fixture
def diagnosis() -> Diagnosis:
    return diagnose(Rows(), Pixels(), dots(), Affine(scale=None, shear=None, rotation=45.0), values=9)


def test_it_identifies_the_invariance_of_the_teacher_alone(diagnosis: Diagnosis) -> None:
    assert diagnosis.missing[0] == "translation_x"
    rows = {row.name: row for row in diagnosis.rows}
    assert rows["translation_x"].teacher_mean == pytest.approx(1)
    assert rows["translation_x"].teacher_consistency == (1,) * 9
    assert rows["translation_x"].transfer_gap > 0.3
    assert rows["translation_y"].transfer_gap < 0.05
    assert rows["translation_x"].student_consistency[4] == 1
    assert rows["translation_x"].values == pytest.approx([0.25 * 0.999 * i / 4 for i in range(-4, 5)], abs=1e-6)


def test_large_blocks_are_one_row_and_mixes_have_partners() -> None:
    transform = Compose(Elastic(), Filter(blur=None, gamma=None, sharpness=None), PatchMix(image_size=16, patch_size=4))
    found = diagnose(Rows(), Pixels(), dots(), transform, values=5, batch_size=3)
    names = [row.name for row in found.rows]
    assert names == ["elastic (50 parameters)", "noise", "mask (16 parameters)"]
    for row in found.rows:
        assert row.fractions[0] == 0
        assert row.teacher_consistency[0] == row.student_consistency[0] == 1
        assert len(row.values) == 3
    again = diagnose(Rows(), Pixels(), dots(), transform, values=5, batch_size=3)
    assert again == found
    assert found.rows[0].student_consistency[-1] < 1


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
        assert row.teacher_consistency == pytest.approx(other.teacher_consistency)
        assert row.student_consistency == pytest.approx(other.student_consistency)
        assert row.student_divergence == pytest.approx(other.student_divergence, abs=1e-5)


def test_a_student_that_moves_to_the_teachers_prediction_has_no_gap() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_tensor([1.0, 0.0]).expand(len(images), 2)

    class Left(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            left, right = images[..., :8].sum((1, 2, 3)), images[..., 8:].sum((1, 2, 3))
            return torch.stack((left, right), 1)

    images = torch.zeros(1, 1, 16, 16)
    images[..., 8] = 1  # right of the centre: the student is wrong until the column moves to the left
    row = diagnose(Constant(), Left(), images, Affine(rotation=None, scale=None, shear=None), values=3).rows[0]
    assert row.student_agreement == (1, 0, 0)
    assert row.student_consistency == (1, 1, 1)
    assert row.transfer_gap == 0


def test_stages_of_one_kind_are_apart() -> None:
    found = diagnose(Rows(), Pixels(), dots(), Compose(Affine(), Filter(), Affine()), values=3)
    assert [row.name for row in found.rows if "translation_x" in row.name] == ["translation_x", "translation_x_2"]


def test_normalised_images() -> None:
    images, transform = dots(), Affine(scale=None, shear=None)
    expected = diagnose(Rows(), Pixels(), images, transform, values=3)
    assert (
        diagnose(Rows(), Pixels(), (images - 0.5) / 0.25, transform, values=3, normalization=([0.5], [0.25]))
        == expected
    )
    with pytest.raises(ValueError, match="normalization"):
        diagnose(Rows(), Pixels(), (images - 0.5) / 0.25, transform)


def test_networks_and_generators_are_unchanged(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    buffers = {name: value.clone() for name, value in student.state_dict().items()}
    modes = [module.training for module in student.modules()]
    state = torch.get_rng_state()
    diagnose(teacher, student, images, Affine(), values=3)
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    for settings in ({"values": 2}, {"values": 3.5}, {"threshold": 1.0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}=.*expected a"):
            diagnose(teacher, student, images, Affine(), **settings)  # type: ignore[arg-type]  # from a list
    with pytest.raises(ValueError, match="at least one image"):
        diagnose(teacher, student, images[:0], Affine())
    with pytest.raises(ValueError, match="NaN"):
        diagnose(teacher, student, images * float("nan"), Affine())
    with pytest.raises(ValueError, match="the teacher has 5 classes and the student 144"):
        diagnose(teacher, nn.Flatten(), images, Affine())
    with pytest.raises(TypeError, match="transform: expected a Transform"):
        diagnose(teacher, student, images, "affine")  # type: ignore[arg-type]  # the mistake that is tested
