"""Calibration of a transform's ranges on a teacher: no student, no labels and no gradient are needed.

For each parameter, below and above its identity apart, the end of its range is searched by bisection at which the
teacher keeps a wished fraction of its predictions: the mean probability that it gives to the classes it predicts for
the clean images, relative to that on the clean images. (Of a teacher that is always sure, that is the fraction of
images with an unchanged prediction. Of one that wavers between two classes on some images, the fraction itself would
measure the wavering: the slightest change flips these.)

Each group is then narrowed as a whole, until uniform draws of all of its parameters together keep that fraction too. A
group of many parameters, such as a control grid, has one reach for all, that of uniform draws. Last,
one factor for all ranges is searched at which draws of everything together keep another fraction: these are ranges for
random augmentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hard_aug.calibration.result import MAX_SINGLE, Calibration
from hard_aug.inner_loop.image_check import ImageCheck
from hard_aug.models.eval_mode import eval_mode
from hard_aug.models.network import Network
from hard_aug.models.normalized import Normalization, Pair
from hard_aug.ops.elementwise import at_fraction, at_least_float32, scale_sides
from hard_aug.transforms import Parameter, Transform, make_context
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import columns_by_group
from hard_aug.utils.checks import as_seed, check_integer, check_kinds, check_labels
from hard_aug.utils.image_choice import choose

#: Fraction of predictions that the teacher keeps at the end of each range, and on draws of everything together.
KEEP, JOINT_KEEP = 0.9, 0.8
#: Part of a range, at its end, from which a single parameter is drawn.
OUTERMOST = 0.1
#: Halvings of the interval that contains the end of a range: to one part in 64 of the full range.
HALVINGS = 6
#: Smallest reach: a range of no width would switch a parameter off for good.
MIN_REACH = 0.5**HALVINGS

#: From the fractions of predictions that were kept, `(n,)`, to their mean over all processes.
Mean = Callable[[Tensor], Tensor]


def calibrate(
    teacher: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor,
    transform: Transform,
    *,
    keep: float = KEEP,
    joint_keep: float = JOINT_KEEP,
    labels: Tensor | None = None,
    max_images: int | None = 256,
    batch_size: int = 256,
    normalization: Pair | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Calibration:
    """Search the widest ranges of a transform in which a teacher keeps its predictions.

    What the teacher keeps is measured by its probabilities (see the head of this module), so of a teacher that is
    hardly surer than chance nearly everything is kept.

    Cost: for each image seven forwards of the teacher for each end of a range that is too wide, and one for each that
    is not: for the menu about 150, so 38,000 forwards of single images with the defaults.

    Args:
        teacher: From images in [0, 1] to logits `(B, K)`: a network, which runs in evaluation mode and whose modes are
            restored, or any function, such as one that calls a server.
        images: `(N, C, H, W)` in [0, 1] (or normalised, see `normalization`).
        transform: The transform whose ranges are calibrated.
        keep: Fraction of the predictions, in (0, 1), that are kept at the end of each range, the other parameters at
            the identity.
        joint_keep: Fraction, in (0, 1), that all of them together keep in `Calibration.narrowed()`.
        labels: Integers `(N,)`, for transforms that require them.
        max_images: Largest number of images that are used; of more, a random choice that depends on N and `seed` only.
            With 256 images, 90 % has a standard error of at most 1.9 %. None: all.
        batch_size: Number of images per forward.
        normalization: `(mean, std)` per channel if the images are normalised: undone first, and applied again before a
            network that does not normalise by itself, as `Normalized` does.
        seed: Seed of the choice of images and of all draws.
        progress: Whether to show a progress bar on the standard error stream; None: if that is a terminal.

    Raises:
        TypeError: If the teacher or the transform has the wrong type; for images as `HardAugmenter`.
        ValueError: If there are no images, or a setting is out of range; for images as `HardAugmenter`.

    Example:
        >>> import torch
        >>> from hard_aug import calibrate
        >>> from hard_aug.transforms import Color
        >>> def is_bright(images):
        ...     above = 100 * (images.mean((1, 2, 3)) - 0.5)
        ...     return torch.stack((above, -above), 1)
        >>> images = torch.full((64, 1, 8, 8), 0.7)  # at a brightness below -0.2 they are of the other class
        >>> result = calibrate(is_bright, images, Color(brightness=0.5, contrast=None))
        >>> low, high = result.ranges()["brightness"]
        >>> f"{low:.1f} to {high:.1f}"
        '-0.2 to 0.5'
    """
    if not isinstance(teacher, nn.Module):
        if not callable(teacher):
            raise TypeError(f"teacher: expected a network or a function of images, got {type(teacher).__name__}")
        teacher = _Function(teacher)
    check_kinds(transform=(transform, Transform))
    if labels is None and transform.requires_labels:
        raise ValueError(f"{type(transform).__name__} requires the class of each image: pass labels=")
    check_integer(batch_size=batch_size, max_images=max_images)
    seed, batch_size = as_seed(seed), int(batch_size)
    for name, value in (("keep", keep), ("joint_keep", joint_keep)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value}: expected a fraction in (0, 1)")
    pair = None if normalization is None else Normalization(*normalization)
    network = Network(teacher, name="teacher", normalization=pair)
    device = images.device if isinstance(teacher, _Function) and isinstance(images, Tensor) else network.device
    images = ImageCheck(device, pair)(images, takes_gradients=False)
    if len(images) == 0:
        raise ValueError("images: expected at least one image, got none")
    check_labels(labels, batch=len(images))
    labels = None if labels is None else labels.to(images.device)
    images, labels = choose(images, labels, limit=max_images, seed=seed)
    with (
        torch.no_grad(),
        eval_mode(network.inner),
        tqdm(desc="calibration", unit="image", leave=False, disable=None if progress is None else not progress) as bar,
    ):
        return calibrate_network(
            network,
            images,
            transform,
            keep=float(keep),
            joint_keep=float(joint_keep),
            labels=labels,
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(seed),
            bar=bar,
        )


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def calibrate_network(
    network: Network,
    images: Tensor,
    transform: Transform,
    *,
    keep: float,
    joint_keep: float,
    labels: Tensor | None,
    batch_size: int,
    generator: torch.Generator,
    bar: tqdm | None = None,
    mean: Mean | None = None,
) -> Calibration:
    """Calibrate on checked images with a network in evaluation mode, without gradients; see `calibrate`.

    Args:
        network: The teacher.
        images: `(N, C, H, W)` in [0, 1].
        transform: The transform.
        keep: Fraction that each group keeps.
        joint_keep: Fraction that all keep together.
        labels: Integers `(N,)`.
        batch_size: Number of images per forward.
        generator: Source of the draws, on the CPU.
        bar: Counts images.
        mean: Averages over processes, each of which has its own images; None: there is one.
    """
    clean = torch.cat([network(part) for part in torch.split(images, batch_size)])
    context = make_context(transform, images, generator=generator, labels=labels, teacher_logits=clean)
    rates = _Rates(network, images, transform, context, clean, batch_size, bar, mean or (lambda values: values))
    spec, count = transform.spec, len(images)
    reach = torch.zeros(len(spec), 2, dtype=torch.float32, device="cpu")
    kept = torch.full_like(reach, torch.nan)
    sides = _sides(spec)
    extents = [
        _outermost((count, 1), generator, side) if len(columns) == 1 else _uniform((count, len(columns)), generator)
        for columns, side in sides
    ]
    found = rates.widest([_Draws(columns, extent) for (columns, _), extent in zip(sides, extents, strict=True)], keep)
    for (columns, side), (scale, rate) in zip(sides, found, strict=True):
        used = slice(None) if side == 0 else (side + 1) // 2
        reach[columns, used], kept[columns, used] = scale, rate
    # Also of a single parameter: a teacher that takes a full turn may still not take a quarter.
    groups = [columns for columns in columns_by_group(spec).values() if len(columns) <= MAX_SINGLE]
    draws = [
        _Draws(columns, scale_sides(_uniform((count, len(columns)), generator), reach[columns])) for columns in groups
    ]
    for columns, (scale, _) in zip(groups, rates.widest(draws, keep), strict=True):
        reach[columns] = (scale * reach[columns]).clamp(min=MIN_REACH)
    everything = list(range(len(spec)))
    together = _Draws(everything, scale_sides(_uniform((count, len(spec)), generator), reach))
    ((joint_scale, joint_kept),) = rates.widest([together], joint_keep)
    return Calibration(
        transform=transform,
        reach=reach,
        kept=kept,
        keep=keep,
        joint_scale=joint_scale,
        joint_kept=joint_kept,
        joint_keep=joint_keep,
        images=count,
        evaluations=count + rates.evaluations,
    )


@dataclass(frozen=True, slots=True)
class _Draws:
    """One draw for each image: the signed fractions `(N, n)` of the ranges of some columns of `u`."""

    columns: list[int]
    fractions: Tensor


@dataclass(slots=True)
class _Rates:
    """Measures on how many images the teacher keeps its prediction."""

    network: Network
    images: Tensor
    transform: Transform
    context: Context
    clean_logits: Tensor
    batch_size: int
    bar: tqdm | None
    mean: Mean
    evaluations: int = 0

    def widest(self, draws: list[_Draws], keep: float) -> list[tuple[float, float]]:
        """Return for each the largest factor in (0, 1] at which `keep` of the predictions are kept, and the rate there.

        All are bisected together, so that processes synchronise once in each round.
        """
        if not draws:
            return []
        keep -= 1e-6  # rates are float32: 9 of 10 are less than 0.9
        rates = self._measure(draws, [1.0] * len(draws))
        low, high = [1.0 if rate >= keep else 0.0 for rate in rates], [1.0] * len(draws)
        kept = list(rates)
        open_ends = [index for index, rate in enumerate(rates) if rate < keep]
        for _ in range(HALVINGS if open_ends else 0):
            middle = [(low[index] + high[index]) / 2 for index in open_ends]
            for index, scale, rate in zip(
                open_ends, middle, self._measure([draws[index] for index in open_ends], middle), strict=True
            ):
                if rate >= keep:
                    low[index], kept[index] = scale, rate
                else:
                    high[index] = scale
                    kept[index] = kept[index] if low[index] else rate  # the last of these is that at MIN_REACH
        return [(max(scale, MIN_REACH), rate) for scale, rate in zip(low, kept, strict=True)]

    def _measure(self, draws: list[_Draws], scales: list[float]) -> list[float]:
        rates = [self._rate(one, scale) for one, scale in zip(draws, scales, strict=True)]
        return self.mean(torch.tensor(rates, dtype=torch.float32, device=self.images.device)).tolist()

    def _rate(self, draws: _Draws, scale: float) -> float:
        u = torch.zeros(len(self.images), self.transform.size, dtype=torch.float32, device="cpu")
        u[:, draws.columns] = at_fraction(scale * draws.fractions)
        kept = clean = 0.0
        for start in range(0, len(u), self.batch_size):
            rows = slice(start, start + self.batch_size)
            part, context = u[rows].to(self.images.device), self.context.rows(rows)
            found = self.network(self.transform.render(self.images[rows], part, context))
            expected = self.transform.reference(self.clean_logits[rows], part, context)
            predicted = expected.argmax(1, keepdim=True)
            on_hard, on_clean = (
                at_least_float32(logits).softmax(1).gather(1, predicted).nan_to_num(0.0).sum()
                for logits in (found, expected)
            )
            kept, clean = kept + float(on_hard), clean + float(on_clean)
            if self.bar is not None:
                self.bar.update(len(part))
        self.evaluations += len(u)
        return min(kept / clean, 1.0) if clean else 0.0


def _sides(spec: tuple[Parameter, ...]) -> list[tuple[list[int], int]]:
    """Return what is calibrated by itself: columns, and the side of the identity, -1 or 1, or 0 for both."""
    sides: list[tuple[list[int], int]] = []
    for columns in columns_by_group(spec).values():
        if len(columns) > MAX_SINGLE:
            sides.append((columns, 0))
            continue
        for column in columns:
            sides += [([column], 0)] if spec[column].one_sided else [([column], -1), ([column], 1)]
    return sides


def _uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") - 1


def _outermost(shape: tuple[int, int], generator: torch.Generator, side: int) -> Tensor:
    """Draw from the outermost tenth of a side; of a parameter that is folded, either side is the same."""
    return (side or 1) * (1 - OUTERMOST * torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu"))
