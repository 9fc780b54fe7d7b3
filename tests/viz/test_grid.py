"""Grid over one parameter: values, texts, frames, noise, and what has no grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug.transforms import Affine, Color, Compose, Context, Filter, PatchMix
from hard_aug.viz import parameter_grid
from tests.helpers.figures import assert_saves


def test_a_grid_says_where_each_prediction_changes(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    transform = Compose(Affine(), Color(saturation=None, hue=None))
    modes = [module.training for module in student.modules()]
    figure = parameter_grid(teacher, student, images[:2], transform, "contrast", columns=5, classes=list("abcde"))
    assert_saves(figure)
    assert [module.training for module in student.modules()] == modes
    axes = figure.axes
    assert len(axes) == 10
    values = [float(axis.get_title()) for axis in axes[:5]]
    assert values == pytest.approx([0.67, 0.82, 1.0, 1.2, 1.5], abs=0.01)
    student.eval()
    for row, image in enumerate(images[:2]):
        u = torch.zeros(5, transform.size)
        u[:, [p.name for p in transform.spec].index("contrast")] = torch.special.ndtri(
            (1 + torch.linspace(-0.999, 0.999, 5)) / 2
        )
        views = transform.render(image.expand(5, -1, -1, -1), u)
        tops = [model(views).argmax(1).tolist() for model in (teacher, student)]
        expected = int(teacher(image[None]).argmax())
        for column in range(5):
            axis = axes[5 * row + column]
            changed = [found[column] != expected for found in tops]
            assert [text.get_weight() == "bold" for text in axis.texts[::2]] == changed
            framed = axis.spines["left"].get_linewidth() > 1
            assert framed == (changed[1] and not changed[0])
            assert axis.texts[0].get_text().startswith(f"{'abcde'[tops[0][column]]},")
            assert [text.get_text() for text in axis.texts[1::2]] == (["", ""] if column else ["teacher", "student"])


def test_a_student_that_moves_to_the_teachers_prediction_is_not_framed() -> None:
    class Left(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            left, right = images[..., :4].sum((1, 2, 3)), images[..., 4:].sum((1, 2, 3))
            return torch.stack((left, right), 1)

    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_tensor([1.0, 0.0]).expand(len(images), 2)

    image = torch.zeros(1, 1, 8, 8)
    image[..., 4] = 1
    figure = parameter_grid(First(), Left(), image, Affine(translation=0.5), "translation_x", columns=3)
    assert [axis.spines["left"].get_linewidth() > 1 for axis in figure.axes] == [False, True, True]


def test_what_has_no_grid(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="parameter='tilt': expected one of translation_x, translation_y"):
        parameter_grid(teacher, student, images, Affine(), "tilt")
    with pytest.raises(ValueError, match="0 images and columns=9"):
        parameter_grid(teacher, student, images[:0], Affine(), "rotation")
    with pytest.raises(ValueError, match="columns=1"):
        parameter_grid(teacher, student, images, Affine(), "rotation", columns=1)
    with pytest.raises(ValueError, match="expected 5 names, got 2"):
        parameter_grid(teacher, student, images, Affine(), "rotation", classes=["a", "b"])
    with pytest.raises(ValueError, match="mixes images"):
        parameter_grid(teacher, student, images, PatchMix(image_size=12, patch_size=4), "mask_0_0")
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        parameter_grid(teacher, student, 3 * images, Affine(), "rotation")


def test_noise_is_that_of_the_seed(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    transform = Filter(blur=None, gamma=None, sharpness=None, noise=0.1)
    figure = parameter_grid(teacher, student, images[:2], transform, "noise", columns=3, seed=4)
    assert_saves(figure)
    assert student.training
    noise = torch.randn(images[:2].shape, generator=torch.Generator().manual_seed(4))
    u = torch.special.ndtri((1 + torch.linspace(0, 0.999, 3)) / 2)[:, None]
    for row in range(2):
        views = transform.render(images[row].expand(3, -1, -1, -1), u, Context(noise=noise[row].expand(3, -1, -1, -1)))
        for column in range(3):
            shown = figure.axes[3 * row + column].images[0].get_array()
            assert torch.equal(torch.as_tensor(shown.data), views[column, 0])
