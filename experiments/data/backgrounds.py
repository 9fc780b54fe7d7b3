"""Grey items on coloured or striped backgrounds: a covariate shift with a known spurious feature.

Backgrounds come in `families`, and each class has a home family. A training set with `rare=0` holds the home groups
only: all other groups of class and background are absent, and with one family per class the background determines the
class. The items are real (Fashion-MNIST by default); the backgrounds are ours, similar to coloured MNIST.

Family f of F has hues around `360 f / F` degrees, which reach 0.4 of the way to the next family on either side, is a
little cloudy, and varies in saturation and value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data.sources import load as load_items
from hard_aug.data import Grouped, GroupedSplits, ImageSet, Splits
from hard_aug.utils.checks import as_seed, check_integer, check_unit_interval

#: Half-width of a family, as a fraction of the distance to the next one.
REACH = 0.4
#: Opacity per grey value of an item: opaque where its grey value is above a quarter.
COVER = 4.0


def paint(items: Tensor, backgrounds: Tensor, generator: torch.Generator, *, families: int = 10) -> Tensor:
    """Put grey items `(N, 1, H, W)` on backgrounds of the families `(N,)`; return `(N, 3, H, W)`, all in [0, 1]."""
    if items.ndim != 4 or items.shape[1] != 1:
        raise ValueError(f"items of shape {tuple(items.shape)}: expected grey ones, (N, 1, H, W)")
    off = REACH * (2 * torch.rand(len(items), generator=generator) - 1)
    cover = (COVER * items).clamp(0, 1)
    return cover * items + (1 - cover) * _colours((backgrounds + off) / families, tuple(items.shape[-2:]), generator)


def _colours(turn: Tensor, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw coloured backgrounds of hues `turn`, `(N,)`, where 1 is the whole circle."""
    from kornia.color import hsv_to_rgb

    saturation, value = (0.5 + 0.4 * torch.rand(len(turn), generator=generator) for _ in range(2))
    hsv = torch.stack((turn % 1 * 2 * math.pi, saturation, value), 1)[:, :, None, None]
    coarse = torch.randn(len(turn), 1, 4, 4, generator=generator)
    clouds = F.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return (hsv_to_rgb(hsv) * (1 + 0.1 * clouds)).clamp(0, 1)


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
    families: int = 10,
    rare: float = 0.0,
    classes: Sequence[int] | None = None,
    test_images: int = 2000,
    seed: int = 0,
    download: bool = True,
) -> GroupedSplits:
    """Load a grey data set, some of its `classes` in a new order, and put it on backgrounds of F `families`.

    The home of class c is family `c mod F`. A fraction `rare` of the training and validation images is not on its
    home family; 0: those groups are absent; `1 - 1 / F`: the background is independent of the class. Each of
    `test_images` test items appears once on each family.

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
    generator = torch.Generator().manual_seed(as_seed(seed, name="data.seed"))
    names = tuple(f"colour {family}" for family in range(families))

    def painted(images: Tensor, labels: Tensor, backgrounds: Tensor) -> Grouped:
        images = paint(images, backgrounds, generator, families=families)
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
