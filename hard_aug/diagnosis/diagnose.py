"""Diagnosis: over each parameter's range, where the teacher's predictions are unchanged, and where the student agrees.

Where the teacher's predictions are unchanged and the student's differ from them, there is an invariance to transfer.
Before training, a diagnosis identifies the missing invariances; after it, it shows which of them were transferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hard_aug.diagnosis.result import Diagnosis, ParameterDiagnosis
from hard_aug.inner_loop.image_check import ImageCheck
from hard_aug.inner_loop.networks import Networks
from hard_aug.models.normalized import NetworkNormalizations, Pair
from hard_aug.objectives import teacher_divergence
from hard_aug.transforms import Context, Parameter, Transform
from hard_aug.utils import rng
from hard_aug.utils.checks import as_seed, check_integer, check_kinds, check_labels, check_same_classes
from hard_aug.utils.image_choice import choose

#: Blocks with more parameters than this are diagnosed as a whole.
MAX_SINGLE = 8
#: Largest position in a range, as a fraction; its end itself would be infinite `u`.
END = 0.999


def diagnose(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    transform: Transform,
    *,
    labels: Tensor | None = None,
    values: int = 9,
    threshold: float = 0.9,
    max_images: int | None = 64,
    batch_size: int = 256,
    normalization: Pair | dict[str, Pair] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Diagnosis:
    """Evaluate both networks while each parameter of a transform moves over its range, the others at the identity.

    The result is meaningful for a student that has been distilled on clean images. If it agrees with the teacher on
    less than half of them, the printed result says so.

    A block of more than eight parameters (a control grid, mixing masks) is one row: for each image all of them are
    drawn uniformly from a growing fraction of their ranges. A parameter that has no effect while another one is at the
    identity, such as the angle of a motion blur of strength 0, leaves every prediction unchanged.

    Cost: both networks are evaluated on `1 + (values - 1) * parameters` versions of each image (half as many for
    parameters whose identity is at an end of their range). For the ten parameters of `Affine` and `Color` these are
    5,184 forwards of single images with the defaults, and 24,200 with 13 values of 200 images.

    Args:
        teacher: From images in [0, 1] to logits `(B, K)`. Runs in evaluation mode; its modes are restored.
        student: From images in [0, 1] to logits `(B, K)`. Runs in evaluation mode; its modes are restored.
        images: `(N, C, H, W)` in [0, 1] (or normalised, see `normalization`).
        transform: The transform to diagnose.
        labels: Integers `(N,)`, for transforms that require them (`Diffusion` with a class-conditional model).
        values: Number of values over a two-sided range, at least 3; an even number is rounded up to an odd one.
        threshold: Part of the images at the identity, in (0, 1), that bounds the ranges in the printed table.
        max_images: Largest number of images that are used; of more, a random choice that depends on N and `seed` only.
            A fraction of 64 images has a standard error of at most 6 %, one of 400 images of 2.5 %. None: all.
        batch_size: Number of images per forward.
        normalization: `(mean, std)` per channel if the images are normalised, or `{"teacher": (mean, std), "student":
            (mean, std)}` where the networks' differ (the images have the student's). It is undone first, and applied
            again before a network that does not normalise by itself, as `Normalized` does.
        seed: Seed of the choice of images, of the random parameters of blocks, of noise and of partners.
        progress: Whether to show a progress bar on the standard error stream; None: if that is a terminal.

    Raises:
        TypeError: If a network or the transform has the wrong type; for images as `HardAugmenter`.
        ValueError: If there are no images, or a setting is out of range; for images as `HardAugmenter`.

    Example:
        >>> import torch
        >>> from hard_aug import diagnose
        >>> from hard_aug.transforms import Affine
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> result = diagnose(network, network, torch.rand(4, 1, 8, 8), Affine(shear=None), values=3)
        >>> [row.name for row in result.rows]
        ['translation_x', 'translation_y', 'rotation', 'scale_x', 'scale_y']
    """
    check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), transform=(transform, Transform))
    if labels is None and transform.requires_labels:
        raise ValueError(f"{type(transform).__name__} requires the class of each image: pass labels=")
    check_integer(3, values=values)
    check_integer(batch_size=batch_size, max_images=max_images)
    seed, values, batch_size = as_seed(seed), int(values), int(batch_size)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: expected a fraction in (0, 1)")
    normalizations = None if normalization is None else NetworkNormalizations.parse(normalization)
    networks = Networks(teacher=teacher, student=student, normalization=normalizations)
    images = ImageCheck(networks.device, None if normalizations is None else normalizations.student)(images)
    if len(images) == 0:
        raise ValueError("images: expected at least one image, got none")
    check_labels(labels, batch=len(images))
    labels = None if labels is None else labels.to(images.device)
    images, labels = choose(images, labels, limit=max_images, seed=seed)
    rows = [
        (name, columns, _fractions(transform.spec[columns[0]], columns, values // 2))
        for name, columns in _groups(transform.spec)
    ]
    cells = 1 + sum(len(fractions) - 1 for *_, fractions in rows)
    with (
        torch.no_grad(),
        networks.eval_mode(),
        tqdm(
            total=cells * len(images),
            desc="diagnosis",
            unit="image",
            leave=False,
            disable=None if progress is None else not progress,
        ) as bar,
    ):
        known = _known(networks, images, transform, labels, batch_size, seed)
        evaluation = _Evaluation(networks, images, transform, *known, batch_size, bar)
        identity = evaluation.measure(torch.zeros(len(images), transform.size, dtype=torch.float32, device="cpu"))
        found = tuple(_row(evaluation, identity, *row, seed=seed) for row in rows)
    return Diagnosis(found, threshold, len(images))


def _known(
    networks: Networks, images: Tensor, transform: Transform, labels: Tensor | None, batch_size: int, seed: int
) -> tuple[Context, Tensor]:
    """Return the context and the teacher's logits of all images; so the batch size has no effect on what is drawn."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.split(images, batch_size)
    check_same_classes(teacher_logits=networks.teacher(parts[0][:1]), student_logits=networks.student(parts[0][:1]))
    logits = torch.cat([networks.teacher(part) for part in parts])
    # Not `make_context`: noise is drawn first.
    noise = rng.randn(tuple(images.shape), generator).to(images) if transform.requires_noise else None
    if not transform.requires_partner:
        return Context(labels, noise=noise), logits
    partner = rng.derangement(len(images), generator).to(images.device)
    return Context(labels, images[partner], logits[partner], noise), logits


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Both networks on all images, however these are transformed.

    Attributes:
        networks: Teacher and student.
        images: Clean images `(N, C, H, W)`.
        transform: The transform.
        context: Context of the images.
        clean_logits: The teacher's logits `(N, K)` on the images.
        batch_size: Number of images per forward.
        bar: The progress bar, which counts images.
    """

    networks: Networks
    images: Tensor
    transform: Transform
    context: Context
    clean_logits: Tensor
    batch_size: int
    bar: tqdm

    def measure(self, u: Tensor) -> list[float]:
        """Evaluate the networks on the images transformed with `u`, `(N, P)`.

        Returns:
            The fraction of images with an unchanged prediction of the teacher, the fraction of those on which the
            student agrees, and the mean divergence of each network's prediction from the teacher's clean one.
        """
        total = torch.zeros(4, dtype=torch.float64, device="cpu")
        for start in range(0, len(u), self.batch_size):
            rows = slice(start, start + self.batch_size)
            total += self._sums(rows, u[rows].to(self.images.device))
            self.bar.update(len(u[rows]))
        return (total / len(u)).tolist()

    def _sums(self, rows: slice, u: Tensor) -> Tensor:
        context = self.context.rows(rows)
        hard = self.transform.render(self.images[rows], u, context)
        teacher_logits, student_logits = self.networks.teacher(hard), self.networks.student(hard)
        expected = self.transform.reference(self.clean_logits[rows], u, context)
        unchanged = teacher_logits.argmax(1) == expected.argmax(1)
        agrees = unchanged & (student_logits.argmax(1) == expected.argmax(1))
        divergences = [
            teacher_divergence(reference_logits=expected, hard_logits=logits)
            for logits in (teacher_logits, student_logits)
        ]
        return torch.stack([unchanged, agrees, *divergences]).cpu().double().sum(1)  # some devices have no float64


def _groups(spec: tuple[Parameter, ...]) -> Iterator[tuple[str, list[int]]]:
    """Yield the name of each row and its columns of `u`."""
    seen: set[str] = set()
    for index, parameter in enumerate(spec):
        block = [i for i, other in enumerate(spec) if other.block == parameter.block]
        if len(block) <= MAX_SINGLE:
            yield parameter.name, [index]
        elif parameter.block not in seen:
            seen.add(parameter.block)
            yield f"{parameter.block} ({len(block)} parameters)", block


def _fractions(parameter: Parameter, columns: list[int], half: int) -> list[float]:
    """Return the positions in the range of a parameter or block."""
    from_identity = parameter.one_sided or len(columns) > 1
    return [END * step / half for step in range(0 if from_identity else -half, half + 1)]


def _row(
    evaluation: _Evaluation,
    identity: list[float],
    name: str,
    columns: list[int],
    fractions: list[float],
    *,
    seed: int,
) -> ParameterDiagnosis:
    """Evaluate the networks at each position in the range of one parameter or block but the identity's."""
    transform, images = evaluation.transform, len(evaluation.images)
    single = len(columns) == 1
    parameter = transform.spec[columns[0]]
    found = []
    for fraction in fractions:
        if fraction == 0:
            found.append(identity)
            continue
        position = torch.zeros(images, transform.size, dtype=torch.float32, device="cpu")
        position[:, columns] = fraction
        if not single:
            generator = torch.Generator().manual_seed(seed)
            position[:, columns] *= (
                2 * torch.rand(images, len(columns), generator=generator, dtype=torch.float32, device="cpu") - 1
            )
        found.append(evaluation.measure(torch.special.ndtri((1 + position) / 2)))
    values = fractions
    if single:
        u = torch.zeros(len(fractions), transform.size, dtype=torch.float32, device="cpu")
        u[:, columns[0]] = torch.special.ndtri((1 + u.new_tensor(fractions)) / 2)
        values = transform.decode(u.to(evaluation.images.device))[parameter.name].tolist()
    measured = [tuple(column) for column in zip(*found, strict=True)]
    unit = parameter.unit if single else "fraction of the ranges"
    return ParameterDiagnosis(name, unit, tuple(fractions), tuple(values), *measured)
