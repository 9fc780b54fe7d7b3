"""Grey items on coloured or striped backgrounds: a covariate shift with a known spurious feature.

Backgrounds come in `families`, and each class has a home family. A training set with `rare=0` holds the home groups
only: all other groups of class and background are absent, and with one family per class the background determines the
class. The items are real (Fashion-MNIST by default); the backgrounds are ours, similar to coloured MNIST.

| kind | family f of F |
|---|---|
| `colour` | hues around `360 f / F` degrees, a little cloudy; saturation and value vary |
| `stripes` | stripes of 4 to 8 pixels, grey, at an angle around `180 f / F` degrees |

Hues and angles reach 0.4 of the way to the next family on either side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data.sources import load as load_items
from hard_aug.data import Grouped, GroupedSplits, ImageSet, Splits
from hard_aug.utils.checks import check_integer, check_unit_interval

Kind = Literal["colour", "stripes"]
#: Half-width of a family, as a fraction of the distance to the next one.
REACH = 0.4
#: Opacity per grey value of an item: opaque where its grey value is above a quarter.
COVER = 4.0


def paint(
    items: Tensor, backgrounds: Tensor, generator: torch.Generator, *, families: int = 10, kind: Kind = "colour"
) -> Tensor:
    """Put grey items `(N, 1, H, W)` on backgrounds of the families `(N,)`; return `(N, 3, H, W)`, all in [0, 1].

    Raises:
        ValueError: an unknown kind, items that are not grey, or backgrounds outside [0, families).
    """
    if kind not in ("colour", "stripes"):
        raise ValueError(f"kind={kind!r}: expected colour or stripes")
    if items.ndim != 4 or items.shape[1] != 1:
        raise ValueError(f"items of shape {tuple(items.shape)}: expected grey ones, (N, 1, H, W)")
    if not bool(((backgrounds >= 0) & (backgrounds < families)).all()):
        raise ValueError(f"backgrounds: expected 0 to {families - 1}")
    off = REACH * (2 * torch.rand(len(items), generator=generator) - 1)
    turn = (backgrounds + off) / families
    draw = _colours if kind == "colour" else _stripes
    cover = (COVER * items).clamp(0, 1)
    return cover * items + (1 - cover) * draw(turn, tuple(items.shape[-2:]), generator)


def _colours(turn: Tensor, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw coloured backgrounds of hues `turn`, `(N,)`, where 1 is the whole circle."""
    from kornia.color import hsv_to_rgb

    saturation, value = (0.5 + 0.4 * torch.rand(len(turn), generator=generator) for _ in range(2))
    hsv = torch.stack((turn % 1 * 2 * math.pi, saturation, value), 1)[:, :, None, None]
    coarse = torch.randn(len(turn), 1, 4, 4, generator=generator)
    clouds = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return (hsv_to_rgb(hsv) * (1 + 0.1 * clouds)).clamp(0, 1)


def _stripes(turn: Tensor, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw striped backgrounds at angles `turn`, `(N,)`, where 1 is half the circle."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    angle = math.pi * turn[:, None, None]
    period, phase, dark = torch.rand(3, len(turn), 1, 1, generator=generator)
    across = angle.cos() * columns + angle.sin() * rows
    pattern = torch.sin(2 * math.pi * (across / (4 + 4 * period) + phase)).sign()
    return (0.2 + 0.2 * dark + 0.2 * (pattern + 1)).unsqueeze(1).expand(-1, 3, -1, -1)


def backgrounds_of(labels: Tensor, families: int, rare: float, generator: torch.Generator) -> Tensor:
    """Draw the family of each background: the home of its class, or with probability `rare` any of the others."""
    strays = torch.rand(len(labels), generator=generator) < rare
    others = torch.randint(1, families, (len(labels),), generator=generator)
    return (labels + strays * others) % families


def load(
    name: str = "fashion_mnist",
    *,
    root: str | None = "data",
    canvas: int = 32,
    kind: Kind = "colour",
    families: int = 10,
    rare: float = 0.0,
    classes: Sequence[int] | None = None,
    test_images: int = 2000,
    seed: int = 0,
    download: bool = True,
) -> GroupedSplits:
    """Load a grey data set and put it on backgrounds; each test item appears once on each family.

    Args:
        name: of the items; as `root`, `canvas` and `download`, see `experiments.data.sources.load`.
        root: of the items.
        canvas: of the items.
        kind: of the backgrounds.
        families: F, at least 2; the home of class c is family `c mod F`.
        rare: fraction of training and validation images that are not on the home family of their class; 0: those groups
            are absent; `1 - 1 / F`: the background is independent of the class.
        classes: which classes of the items are used, in their new order; None: all.
        test_images: how many of the test items are used.
        seed: of the backgrounds.
        download: of the items.

    Raises:
        ValueError: an invalid setting, which it names.
    """
    check_unit_interval(**{"data.rare": rare})
    check_integer(2, **{"data.families": families})
    items = load_items(name, root=root, canvas=canvas, download=download)
    if classes is not None:
        items = _chosen(items, list(classes))
    if not 1 <= test_images <= len(items.test):
        raise ValueError(f"data.test_images={test_images}: expected 1 to {len(items.test)}")
    generator = torch.Generator().manual_seed(seed)
    names = tuple(f"{kind} {family}" for family in range(families))

    def painted(images: Tensor, labels: Tensor, backgrounds: Tensor) -> Grouped:
        images = paint(images, backgrounds, generator, families=families, kind=kind)
        return Grouped(images, labels, backgrounds, items.classes, names)

    train, validation = (
        painted(part.images, part.labels, backgrounds_of(part.labels, families, rare, generator))
        for part in (items.train, items.validation)
    )
    images, labels = items.test.images[:test_images], items.test.labels[:test_images]
    backgrounds = torch.arange(families).repeat_interleave(test_images)
    test = painted(images.repeat(families, 1, 1, 1), labels.repeat(families), backgrounds)
    return GroupedSplits(train, validation, test, items.classes, names)


def _chosen(items: Splits, classes: list[int]) -> Splits:
    if len(set(classes)) < max(2, len(classes)) or not set(classes) <= set(range(len(items.classes))):
        raise ValueError(f"data.classes={classes}: expected two or more of 0 to {len(items.classes) - 1}, each once")
    numbers = torch.full((len(items.classes),), -1)
    numbers[classes] = torch.arange(len(classes))
    parts = []
    for whole in (items.train, items.validation, items.test):
        labels = numbers[whole.labels]
        parts.append(ImageSet(whole.images[labels >= 0], labels[labels >= 0]))
    return Splits(*parts, tuple(items.classes[label] for label in classes))
