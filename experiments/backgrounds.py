"""Grey items on coloured or textured backgrounds: a covariate shift whose spurious feature is known.

Each class has a home family of backgrounds. A training set with `rare=0` holds the home groups alone: half of the
class-background groups are absent, and the background tells a student half of the answer. The items are real
(Fashion-MNIST by default); the painting is ours, in the manner of coloured MNIST.

| kind | family 0 | family 1 |
|---|---|---|
| `colour` | warm: hues within 40 degrees of orange | cool: hues within 40 degrees of azure |
| `texture` | stripes of 4 to 8 pixels, grey | squares of 3 to 6 pixels, grey |

The homes of Fashion-MNIST's classes part those that look alike (T-shirt and shirt, pullover and coat, sneaker and
ankle boot), so that a student that trusts the background loses exactly where the item is hard to tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data import Part, Splits
from experiments.data import load as load_items

Kind = Literal["colour", "texture"]
FAMILIES: dict[str, tuple[str, str]] = {"colour": ("warm", "cool"), "texture": ("stripes", "squares")}
#: Which family is at home behind each class of Fashion-MNIST.
FASHION_HOMES = (0, 0, 0, 1, 1, 0, 1, 0, 1, 1)
#: Degrees: the middle of the two families' hues, and how far they go to either side.
HUES, HUE_RANGE = (30.0, 210.0), 40.0
#: How quickly an item covers its background: full where its grey value is above a quarter.
COVER = 4.0


def paint(items: Tensor, families: Tensor, generator: torch.Generator, *, kind: Kind = "colour") -> Tensor:
    """Put grey items `(N, 1, H, W)` in [0, 1] on backgrounds of `families` `(N,)`; `(N, 3, H, W)` in [0, 1].

    Args:
        generator: on the CPU; all draws come from it.

    Raises:
        ValueError: an unknown kind, items that are not grey, or families other than 0 and 1.
    """
    if kind not in FAMILIES:
        raise ValueError(f"kind={kind!r}: wanted one of {', '.join(FAMILIES)}")
    if items.ndim != 4 or items.shape[1] != 1:
        raise ValueError(f"items of shape {tuple(items.shape)}: wanted grey ones, (N, 1, H, W)")
    if not bool(((families == 0) | (families == 1)).all()):
        raise ValueError("families: wanted 0 and 1")
    draw = _colours if kind == "colour" else _textures
    backgrounds = draw(families, tuple(items.shape[-2:]), generator)
    cover = (COVER * items).clamp(0, 1)
    return cover * items + (1 - cover) * backgrounds


def _colours(families: Tensor, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    from kornia.color import hsv_to_rgb

    count = len(families)
    hue = torch.tensor(HUES)[families] + HUE_RANGE * (2 * torch.rand(count, generator=generator) - 1)
    saturation = 0.5 + 0.4 * torch.rand(count, generator=generator)
    value = 0.5 + 0.4 * torch.rand(count, generator=generator)
    hsv = torch.stack((hue % 360 * math.pi / 180, saturation, value), 1)[:, :, None, None]
    clouds = F.interpolate(torch.randn(count, 1, 4, 4, generator=generator), size, mode="bicubic", align_corners=False)
    return (hsv_to_rgb(hsv) * (1 + 0.1 * clouds)).clamp(0, 1)


def _textures(families: Tensor, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    count = len(families)
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    angle = math.pi * torch.rand(count, 1, 1, generator=generator)
    period = 4 + 4 * torch.rand(count, 1, 1, generator=generator)
    phase = 2 * math.pi * torch.rand(2, count, 1, 1, generator=generator)
    stripes = torch.sin(2 * math.pi / period * (angle.cos() * columns + angle.sin() * rows) + phase[0])
    side = 0.75 * period
    squares = torch.sin(math.pi / side * columns + phase[0]) * torch.sin(math.pi / side * rows + phase[1])
    pattern = torch.where(families[:, None, None] == 0, stripes, squares).sign()
    dark = 0.2 + 0.2 * torch.rand(count, 1, 1, generator=generator)
    return (dark + 0.2 * (pattern + 1)).unsqueeze(1).expand(-1, 3, -1, -1)


def families_of(labels: Tensor, homes: Sequence[int], rare: float, generator: torch.Generator) -> Tensor:
    """The family behind each image: its class's home, or with probability `rare` the other one."""
    strays = torch.rand(len(labels), generator=generator) < rare
    return torch.tensor(list(homes))[labels] ^ strays.long()


def load(
    name: str = "fashion_mnist",
    *,
    root: str | None = "data",
    canvas: int = 32,
    kind: Kind = "colour",
    rare: float = 0.0,
    homes: Sequence[int] = FASHION_HOMES,
    seed: int = 0,
    download: bool = True,
) -> Splits:
    """A grey data set on backgrounds, without any label of them.

    Args:
        name, root, canvas, download: of the items, see `experiments.data.load`.
        kind: of the backgrounds.
        rare: the share of images that are not on their class's home family; 0: those groups are absent, 0.5: the
            background says nothing.
        homes: 0 or 1 for each class.
        seed: of the backgrounds.

    Raises:
        ValueError: a share outside [0, 1], or a number of homes that is not the number of classes.
    """
    if not 0 <= rare <= 1:
        raise ValueError(f"data.rare={rare}: wanted a share in [0, 1]")
    items = load_items(name, root=root, canvas=canvas, download=download)
    if len(homes) != len(items.classes) or not set(homes) <= {0, 1}:
        raise ValueError(f"data.homes={list(homes)}: wanted 0 or 1 for each of {len(items.classes)} classes")
    generator = torch.Generator().manual_seed(seed)

    def painted(part: Part) -> Part:
        families = families_of(part.labels, homes, rare, generator)
        return Part(paint(part.images, families, generator, kind=kind), part.labels)

    return Splits(painted(items.train), painted(items.validation), painted(items.test), items.classes)
