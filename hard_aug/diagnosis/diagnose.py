"""Diagnosis: the part of each parameter's range in which the teacher's predictions are unchanged, and the student's.

Where the teacher's predictions are unchanged and the student's are not, there is an invariance to transfer. Before
training, a diagnosis identifies the missing invariances; after training, it shows which of them were transferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hard_aug.diagnosis.result import Diagnosis, ParameterDiagnosis
from hard_aug.inner_loop.networks import Networks
from hard_aug.models.eval_mode import eval_mode
from hard_aug.objectives import teacher_divergence
from hard_aug.transforms import Context, Parameter, Transform
from hard_aug.utils import rng
from hard_aug.utils.checks import ImageCheck, check_integer, check_kinds, check_labels, check_same_classes

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
    values: int = 13,
    threshold: float = 0.9,
    batch_size: int = 256,
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Evaluate both networks while each parameter of a transform moves over its range, the others at the identity.

    The result is meaningful for a student that has been distilled on clean images. If it agrees with the teacher on
    less than half of them, the printed result says so.

    A block of more than eight parameters (a control grid, mixing masks) is one row: for each image all of them are
    drawn uniformly from a growing fraction of their ranges. A parameter that has no effect while another one is at the
    identity, such as the angle of a motion blur of strength 0, leaves every prediction unchanged.

    Args:
        teacher: From images in [0, 1] to logits `(B, K)`. Runs in evaluation mode; its modes are restored.
        student: From images in [0, 1] to logits `(B, K)`. Runs in evaluation mode; its modes are restored.
        images: `(N, C, H, W)` in [0, 1] (or normalised, see `normalization`); a few hundred are enough.
        transform: The transform to diagnose.
        labels: Integers `(N,)`, for transforms that require them (`Diffusion` with a class-conditional model).
        values: Number of values over a two-sided range, at least 3; an even number is rounded up to an odd one.
        threshold: Fraction of unchanged predictions, in (0, 1), that bounds the ranges in the printed table.
        batch_size: Number of images per forward.
        normalization: `(mean, std)` per channel if the images are normalised; it is undone first.
        seed: Seed of the random parameters of blocks, of noise and of partners.

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
    check_labels(labels, batch=len(images))
    if labels is None and transform.requires_labels:
        raise ValueError(f"{type(transform).__name__} requires the class of each image: pass labels=")
    check_integer(3, values=values)
    check_integer(batch_size=batch_size)
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold}: expected a fraction in (0, 1)")
    networks = Networks(teacher=teacher, student=student)
    images = ImageCheck(networks.device, normalization)(images)
    if len(images) == 0:
        raise ValueError("images: expected at least one image, got none")
    half = values // 2
    with torch.no_grad(), eval_mode(networks.teacher, networks.student):
        known = Context(None if labels is None else labels.to(images.device))
        batches = _batches(networks, images, transform, known, batch_size, seed)
        rows = tuple(_row(batches, transform, *group, half=half, seed=seed) for group in _groups(transform.spec))
    return Diagnosis(rows, threshold, len(images))


def _batches(
    networks: Networks, images: Tensor, transform: Transform, known: Context, batch_size: int, seed: int
) -> list[_Batch]:
    """Split the images into batches; noise and partners are drawn for all images, so the batch size has no effect."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.split(images, batch_size)
    logits = [(networks.teacher_logits(part), networks.student_logits(part)) for part in parts]
    check_same_classes(teacher_logits=logits[0][0], student_logits=logits[0][1])
    # Not `make_context`: each network is compared with its own prediction on the partners, and noise is drawn first.
    partner_logits: tuple[Tensor | None, ...] = (None, None)
    if transform.requires_noise:
        known = replace(known, noise=rng.randn(tuple(images.shape), generator).to(images))
    if transform.requires_partner:
        partner = rng.derangement(len(images), generator).to(images.device)
        known = replace(known, partner_images=images[partner])
        partner_logits = tuple(torch.cat(column)[partner] for column in zip(*logits, strict=True))
    contexts = [replace(known, partner_logits=own) for own in partner_logits]
    batches, start = [], 0
    for part, clean in zip(parts, logits, strict=True):
        rows = slice(start, start + len(part))
        start = rows.stop
        batches.append(_Batch(networks, part, transform, clean, [context.rows(rows) for context in contexts]))
    return batches


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch of clean images, with everything that is needed to transform it.

    Attributes:
        networks: Teacher and student.
        images: Clean images `(B, C, H, W)`.
        transform: The transform.
        clean: Logits of the teacher and of the student on the images.
        contexts: Contexts for the teacher and for the student; they differ in the logits on the partners.
    """

    networks: Networks
    images: Tensor
    transform: Transform
    clean: tuple[Tensor, Tensor]
    contexts: list[Context]

    def evaluate(self, u: Tensor) -> Tensor:
        """Sum both networks' results over the images transformed with `u`.

        Returns:
            `(5,)`: numbers of consistent predictions of teacher and student and of the student's agreements, and both
            divergences.
        """
        hard = self.transform(self.images, u, self.contexts[0])
        hard = hard if self.transform.bounded else hard.clamp(0, 1)
        predictions = (self.networks.teacher_logits(hard), self.networks.student_logits(hard))
        expected = [
            self.transform.reference(clean, u, context)
            for clean, context in zip(self.clean, self.contexts, strict=True)
        ]
        classes = [logits.argmax(1) for logits in predictions]
        consistent = [top == reference.argmax(1) for top, reference in zip(classes, expected, strict=True)]
        agrees = classes[1] == expected[0].argmax(1)
        divergences = [
            teacher_divergence(reference_logits=reference, hard_logits=logits)
            for reference, logits in zip(expected, predictions, strict=True)
        ]
        sums = [consistent[0], consistent[1] | agrees, agrees, *divergences]
        return torch.stack([values.double().sum() for values in sums]).cpu()


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


def _row(
    batches: list[_Batch], transform: Transform, name: str, columns: list[int], *, half: int, seed: int
) -> ParameterDiagnosis:
    """Evaluate the batches at each position in the range of one parameter or block."""
    single = len(columns) == 1
    parameter = transform.spec[columns[0]]
    from_identity = parameter.one_sided or not single
    fractions = [END * step / half for step in range(0 if from_identity else -half, half + 1)]
    device, images = batches[0].images.device, sum(len(batch.images) for batch in batches)
    found = []
    for fraction in fractions:
        generator = torch.Generator().manual_seed(seed)
        position = torch.zeros(images, transform.size)
        position[:, columns] = fraction
        if not single:
            position[:, columns] *= 2 * torch.rand(images, len(columns), generator=generator) - 1
        u = torch.special.ndtri((1 + position) / 2).to(device)
        parts = torch.split(u, [len(batch.images) for batch in batches])
        total = torch.stack([batch.evaluate(part) for batch, part in zip(batches, parts, strict=True)]).sum(0)
        found.append((total / images).tolist())
    values = fractions
    if single:
        u = torch.zeros(len(fractions), transform.size)
        u[:, columns[0]] = torch.special.ndtri((1 + torch.tensor(fractions)) / 2)
        values = transform.decode(u.to(device))[parameter.name].tolist()
    measured = [tuple(column) for column in zip(*found, strict=True)]
    unit = parameter.unit if single else "fraction of the ranges"
    return ParameterDiagnosis(name, unit, tuple(fractions), tuple(values), *measured)
