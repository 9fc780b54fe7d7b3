"""The diagnosis, on networks whose invariances are known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hard_aug import Diagnosis, Normalized, diagnose
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
    assert rows["translation_x"].student_agreement[4] == 1
    assert rows["translation_x"].values == pytest.approx([0.25 * 0.999 * i / 4 for i in range(-4, 5)], abs=1e-6)


def test_large_blocks_are_one_row_and_mixes_have_partners() -> None:
    transform = Compose(Elastic(), Filter(blur=None, gamma=None, sharpness=None), PatchMix(image_size=16, patch_size=4))
    found = diagnose(Rows(), Pixels(), dots(), transform, values=5, batch_size=3)
    names = [row.name for row in found.rows]
    assert names == ["elastic (50 parameters)", "noise", "mask (16 parameters)"]
    for row in found.rows:
        assert row.fractions[0] == 0
        assert row.teacher_consistency[0] == row.student_agreement[0] == 1
        assert len(row.values) == 3
    again = diagnose(Rows(), Pixels(), dots(), transform, values=5, batch_size=3)
    assert again == found
    assert found.rows[0].student_agreement[-1] < 1


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
        assert row.student_agreement == pytest.approx(other.student_agreement)
        assert row.student_divergence == pytest.approx(other.student_divergence, abs=1e-5)


class Constant(nn.Module):
    """Predicts class 0."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_tensor([1.0, 0.0]).expand(len(images), 2)


class Left(nn.Module):
    """Predicts class 0 where most of the light is on the left."""

    def forward(self, images: Tensor) -> Tensor:
        left, right = images[..., :8].sum((1, 2, 3)), images[..., 8:].sum((1, 2, 3))
        return torch.stack((left, right), 1)


def test_a_student_that_moves_to_the_teachers_prediction_has_no_gap_there() -> None:
    images = torch.zeros(1, 1, 16, 16)
    images[..., 8] = 1  # right of the centre: the student is wrong until the column moves to the left
    row = diagnose(Constant(), Left(), images, Affine(rotation=None, scale=None, shear=None), values=3).rows[0]
    assert row.teacher_consistency == (1, 1, 1)
    assert row.student_agreement == (1, 0, 0)
    assert row.transfer_gap == pytest.approx((0 + 2 * 1 + 1) / 4)


def test_only_images_count_on_which_the_teachers_prediction_is_unchanged() -> None:
    """The student agrees on other images than those on which the teacher's prediction is unchanged."""
    images = torch.zeros(2, 1, 16, 16)
    images[0, ..., 7], images[1, ..., 10] = 1, 1
    row = diagnose(Left(), Constant(), images, Affine(rotation=None, scale=None, shear=None), values=3).rows[0]
    assert row.teacher_consistency == (0.5, 1, 0.5)  # to the left and to the right by four columns
    assert row.student_agreement == (0.5, 0.5, 0)
    assert row.transfer_gap == pytest.approx((0 + 2 * 0.5 + 0.5) / 4)


def test_the_students_divergence_is_from_the_teachers_prediction() -> None:
    row = diagnose(Constant(), Left(), torch.ones(1, 1, 16, 16), Affine(rotation=None), values=3).rows[0]
    teacher, student = torch.tensor([1.0, 0.0]).log_softmax(0), torch.tensor([0.5, 0.5]).log()
    assert row.student_divergence[1] == pytest.approx(float((teacher.exp() * (teacher - student)).sum()), abs=1e-5)


def test_stages_of_one_kind_are_apart() -> None:
    found = diagnose(Rows(), Pixels(), dots(), Compose(Affine(), Filter(), Affine()), values=3)
    assert [row.name for row in found.rows if "translation_x" in row.name] == ["translation_x", "translation_x_2"]


def test_more_images_than_the_limit_are_chosen_at_random_and_the_same_each_time() -> None:
    images, transform = dots().repeat_interleave(4, 0), Affine(scale=None, shear=None)
    one, again = (diagnose(Rows(), Pixels(), images, transform, values=3, max_images=8) for _ in range(2))
    assert one == again
    assert one.images == 8
    assert "of the 8 clean images" in str(one)
    assert diagnose(Rows(), Pixels(), images, transform, values=3, max_images=None).images == 32
    assert diagnose(Rows(), Pixels(), images.repeat(3, 1, 1, 1), transform, values=3).images == 64
    seen: list[Tensor] = []

    class Watched(Rows):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    diagnose(Watched(), Pixels(), images, transform, values=3, max_images=8)
    rows = max(seen, key=len).sum((1, 3)).argmax(1)
    assert len(rows.unique()) > 3  # not the first ones, which are of two kinds


@pytest.mark.parametrize("images", [3, 70])
def test_the_cost_is_as_said_and_the_progress_counts_it(images: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {"teacher": 0, "student": 0}

    class Counted(Rows):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, images: Tensor) -> Tensor:
            rows[self.name] += len(images)
            return super().forward(images)

    transform = Compose(Affine(scale=None, shear=None), Filter(blur=None, gamma=None, sharpness=None))
    shown = torch.rand(images, 1, 16, 16)
    diagnose(Counted("teacher"), Counted("student"), shown, transform, values=5, progress=True)
    used = min(images, 64)
    measured = used * (1 + 3 * 4 + 2)  # the identity once; a one-sided range has half the values
    assert measured <= rows["student"] <= measured + 1
    assert measured <= rows["teacher"] <= measured + used + 1
    assert f"0/{measured} " in capsys.readouterr().err
    diagnose(Counted("teacher"), Counted("student"), shown, transform, values=5)
    assert capsys.readouterr() == ("", "")  # not a terminal


def test_numpy_integers() -> None:
    five, settings = np.int64(5), {"values": np.int64(3), "max_images": np.int32(4), "batch_size": np.int64(3)}
    found = diagnose(Rows(), Pixels(), dots(), Elastic(), seed=five, **settings)  # type: ignore[arg-type]
    assert found == diagnose(Rows(), Pixels(), dots(), Elastic(), seed=5, values=3, max_images=4, batch_size=3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_smallest_numbers_of_images(count: int) -> None:
    transform = Compose(Filter(noise=0.5, blur=None, gamma=None, sharpness=None), PatchMix(image_size=16, patch_size=4))
    found = diagnose(Rows(), Pixels(), dots()[:count], transform, values=3, batch_size=2)
    assert found.images == count
    assert all(torch.tensor(row.teacher_divergence + row.student_divergence).isfinite().all() for row in found.rows)
    assert f"of the {count} clean images" in str(found)


def test_normalised_images() -> None:
    images, transform = dots(), Affine(scale=None, shear=None)
    networks = [Normalized(one, (0.0,), (1.0,)) for one in (Rows(), Pixels())]  # for images in [0, 1]
    expected = diagnose(*networks, images, transform, values=3)
    normalised = (images - 0.5) / 0.25
    assert diagnose(*networks, normalised, transform, values=3, normalization=([0.5], [0.25])) == expected
    with pytest.raises(ValueError, match="normalization"):
        diagnose(Rows(), Pixels(), (images - 0.5) / 0.25, transform)


def test_networks_of_a_normalising_loader_get_normalised_images() -> None:
    """Each network gets what its own training fed; one that is `Normalized` gets images in [0, 1]."""

    class Undone(nn.Module):
        def __init__(self, inside: nn.Module, mean: float, std: float) -> None:
            super().__init__()
            self.inside, self.mean, self.std = inside, mean, std

        def forward(self, images: Tensor) -> Tensor:
            return self.inside(images * self.std + self.mean)  # type: ignore[no-any-return]

    images, transform = dots(), Affine(scale=None, shear=None)
    expected = diagnose(Rows(), Pixels(), images, transform, values=3)
    pairs = {"teacher": ((0.2,), (0.5,)), "student": ((0.5,), (0.25,))}
    normalised = (images - 0.5) / 0.25  # as the student's loader does
    teacher, student = Undone(Rows(), 0.2, 0.5), Undone(Pixels(), 0.5, 0.25)
    found = diagnose(teacher, student, normalised, transform, values=3, normalization=pairs)
    assert found.missing == expected.missing == ("translation_x",)
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row.student_agreement == other.student_agreement
        assert row.student_divergence == pytest.approx(other.student_divergence, abs=1e-3)
    wrapped = Normalized(teacher, (0.2,), (0.5,)), Normalized(student, (0.5,), (0.25,))
    again = diagnose(*wrapped, normalised, transform, values=3, normalization=pairs)
    assert again.rows[0].student_agreement == expected.rows[0].student_agreement


def test_a_network_that_normalises_in_place_leaves_the_images_as_they_are() -> None:
    class InPlace(Rows):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.sub_(0.5))

    images = dots()
    found = diagnose(InPlace(), Pixels(), images, Affine(scale=None, shear=None), values=3)
    assert torch.equal(images, dots())
    expected = diagnose(Rows(), Pixels(), images, Affine(scale=None, shear=None), values=3)
    assert found.missing == expected.missing == ("translation_x",)
    assert [row.student_agreement for row in found.rows] == [row.student_agreement for row in expected.rows]


def test_frozen_torchscript_networks(student: nn.Module, images: Tensor) -> None:
    frozen = torch.jit.freeze(torch.jit.script(student.eval()))
    expected = diagnose(student, student, images, Affine(), values=3)
    assert diagnose(frozen, frozen, images, Affine(), values=3).missing == expected.missing == ()


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
    with pytest.raises(ValueError, match="max_images=0"):
        diagnose(teacher, student, images, Affine(), max_images=0)
    with pytest.raises(ValueError, match="look like channels last"):
        diagnose(teacher, student, images.permute(0, 2, 3, 1), Affine())
    one_logit = nn.Sequential(nn.Flatten(), nn.Linear(144, 1))
    with pytest.raises(ValueError, match=r"the teacher returned.* 1"):
        diagnose(one_logit, one_logit, images, Affine())
    with pytest.raises(TypeError, match=r"images: expected a torch\.Tensor, got dict"):
        diagnose(teacher, student, {"pixel_values": images}, Affine())  # type: ignore[arg-type]  # a batch of transformers
    with pytest.raises(ValueError, match="at least one image"):
        diagnose(teacher, student, images[:0], Affine())
    with pytest.raises(ValueError, match="NaN"):
        diagnose(teacher, student, images * float("nan"), Affine())
    with pytest.raises(ValueError, match="the teacher has 5 classes and the student 144"):
        diagnose(teacher, nn.Flatten(), images, Affine())
    with pytest.raises(TypeError, match="transform: expected a Transform"):
        diagnose(teacher, student, images, "affine")  # type: ignore[arg-type]  # the mistake that is tested
