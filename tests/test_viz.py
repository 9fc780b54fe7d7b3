"""Figures: drawn without a display, from what the library returns."""

from __future__ import annotations

import io

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Conditional
from hard_aug.transforms import Affine, Color, Compose, Filter, PatchMix
from hard_aug.viz import (
    PolicyHistory,
    draw_answers,
    draw_disagreement,
    draw_distributions,
    draw_policy,
    gallery,
    parameter_grid,
)

PNG = b"\x89PNG"


def test_gallery_shows_both_views_and_both_answers(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    figure = gallery(hard, student, classes=list("abcde"), columns=3)
    assert len(figure.axes) == 6
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert sum(text.startswith("teacher: ") for text in texts) == 6
    top = int(hard.teacher_logits[1].argmax())
    share = 100 * float(hard.teacher_logits[1].softmax(0).max())
    assert f"teacher: {'abcde'[top]}, {share:.0f} %" in texts
    assert student.training
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(PNG)
    with pytest.raises(ValueError, match="2 names for 5 classes"):
        gallery(hard, student, classes=["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        gallery(hard, student, columns=0)


def test_a_gallery_of_a_wrapped_student_asks_the_one_inside(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    class Wrapper(nn.DataParallel):  # stands for one that waits for other processes
        def forward(self, *inputs: Tensor) -> Tensor:
            raise AssertionError("a forward of the wrapper")

    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    assert len(gallery(hard, Wrapper(student)).axes) == 16


def test_a_history_of_a_policy_that_looks_at_images_wants_them(teacher: nn.Module, student: nn.Module) -> None:
    policy = Conditional(Affine().spec, channels=1)
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), policy=policy)
    with pytest.raises(ValueError, match=r"record\(step, augmenter, images\)"):
        PolicyHistory(Affine().spec).record(0, augmenter)


def test_history_records_what_is_drawn(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    transform = Compose(Affine(), Color(saturation=None, hue=None))
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform)
    history = PolicyHistory(transform.spec)
    with pytest.raises(ValueError, match="nothing has been recorded"):
        draw_policy(history)
    generator = augmenter.state_dict()["generator"]
    for step in range(3):
        history.record(step, augmenter)
    assert torch.equal(augmenter.state_dict()["generator"], generator)
    last = history.last()
    assert last["rotation"]["sd"] == pytest.approx(30 * 0.237, rel=0.1)  # of erf(u / sqrt(2)) at sd 0.3
    assert last["contrast"]["mean"] == pytest.approx(1.0, abs=0.05)
    figure = draw_policy(history, title="a title")
    assert [axis.get_title() for axis in figure.axes][:3] == ["translation x", "translation y", "rotation"]
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(PNG)
    other = PolicyHistory(transform.spec)
    other.load_state_dict(history.state_dict())
    assert other.last() == last
    with pytest.raises(ValueError, match="wanted one of"):
        PolicyHistory(Affine().spec).load_state_dict(history.state_dict())


def saved(figure: Figure) -> None:
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(PNG)


def test_a_grid_says_where_each_answer_changes(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    transform = Compose(Affine(), Color(saturation=None, hue=None))
    modes = [module.training for module in student.modules()]
    figure = parameter_grid(teacher, student, images[:2], transform, "contrast", columns=5, classes=list("abcde"))
    saved(figure)
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
        tops = [(model(views).argmax(1), int(model(image[None]).argmax())) for model in (teacher, student)]
        for column in range(5):
            axis = axes[5 * row + column]
            changed = [int(found[column]) != own for found, own in tops]
            bold = [text.get_weight() == "bold" for text in axis.texts]
            assert bold == changed
            framed = axis.spines["left"].get_linewidth() > 1
            assert framed == (changed[1] and not changed[0])
            assert axis.texts[0].get_text().startswith(f"t: {'abcde'[int(tops[0][0][column])]},")


def test_what_has_no_grid(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="'tilt': wanted one of translation_x, translation_y"):
        parameter_grid(teacher, student, images, Affine(), "tilt")
    with pytest.raises(ValueError, match="0 images and columns=9"):
        parameter_grid(teacher, student, images[:0], Affine(), "rotation")
    with pytest.raises(ValueError, match="columns=1"):
        parameter_grid(teacher, student, images, Affine(), "rotation", columns=1)
    with pytest.raises(ValueError, match="2 names for 5 classes"):
        parameter_grid(teacher, student, images, Affine(), "rotation", classes=["a", "b"])
    with pytest.raises(ValueError, match="mixes images"):
        parameter_grid(teacher, student, images, PatchMix(image_size=12, patch_size=4), "mask_0_0")
    with pytest.raises(ValueError, match=r"wanted \[0, 1\]"):
        parameter_grid(teacher, student, 3 * images, Affine(), "rotation")
    saved(parameter_grid(teacher, student, images[:1], Filter(), "noise", columns=3))
    assert student.training


def test_answers_are_those_of_the_worst_images(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    figure = draw_answers(hard, student, rows=3, top=4, classes=list("abcde"))
    saved(figure)
    assert len(figure.axes) == 12
    worst = int(hard.disagreement.argmax())
    assert (figure.axes[0].images[0].get_array() == hard.clean_images[worst, 0].numpy()).all()
    bars = figure.axes[3].patches
    assert len(bars) == 8
    teachers = hard.teacher_logits[worst].softmax(0)
    shown = ["abcde".index(label.get_text()) for label in figure.axes[3].get_xticklabels()]
    assert [bar.get_height() for bar in bars[:4]] == pytest.approx(teachers[shown].tolist())
    assert student.training
    for wrong in ({"rows": 0}, {"top": 0}):
        with pytest.raises(ValueError, match="at least one"):
            draw_answers(hard, student, **wrong)
    with pytest.raises(ValueError, match="1 names for 5"):
        draw_answers(hard, student, classes=["a"])


def test_disagreement_before_and_after() -> None:
    before, after = torch.logspace(-1, 1, 101), torch.logspace(-3, -1, 101)
    figure = draw_disagreement({"before": before, "after": after, "none": torch.zeros(3)}, title="a title")
    saved(figure)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "before: median 1",
        "after: median 0.01",
        "none: median 1e-06",
    ]
    for axis in figure.axes:
        assert sum(bar.get_height() for bar in axis.patches) == pytest.approx(100)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_disagreement({})
    for wrong in (torch.tensor([1.0, float("nan")]), torch.tensor([-1.0]), torch.zeros(0)):
        with pytest.raises(ValueError, match="'odd': wanted"):
            draw_disagreement({"odd": wrong})


def test_distributions_side_by_side() -> None:
    transform = Compose(Affine(rotation=None), Filter(gamma=None, sharpness=None, noise=None))
    generator = torch.Generator().manual_seed(0)
    wide, narrow = (transform.decode(s * torch.randn(4000, transform.size, generator=generator)) for s in (1.0, 0.01))
    figure = draw_distributions({"wide": wide, "narrow": narrow}, transform.spec)
    saved(figure)
    assert len(figure.axes) == 2 * transform.size
    spreads = [float(axis.texts[0].get_text()) for axis in figure.axes]
    assert spreads[: transform.size] == pytest.approx([1.0] * transform.size, abs=0.05)
    assert max(spreads[transform.size :]) < 0.05
    assert figure.axes[0].get_ylabel() == "wide"
    with pytest.raises(ValueError, match="'narrow' lacks rotation"):
        draw_distributions({"narrow": narrow}, Affine().spec)
    with pytest.raises(ValueError, match="1 to 12 parameters"):
        draw_distributions({"wide": wide}, transform.spec * 5)
