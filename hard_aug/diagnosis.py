"""Diagnosis: over which part of each parameter's range the teacher keeps its answer, and over which the student does.

Where the teacher does and the student does not, there is something to transfer. Asked before any training, it names
the invariances that are missing; asked again afterwards, it says what was transferred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug import draws
from hard_aug.checks import ImageCheck, check_kinds, check_labels, check_same_classes
from hard_aug.models.guard import evaluation_mode
from hard_aug.objectives import teacher_change
from hard_aug.players import Players
from hard_aug.transforms import Context, Parameter, Transform

#: Blocks of more parameters than this are looked at as a whole.
LARGEST_SINGLE = 8
#: How near to an end of a range the values go; the ends themselves belong to infinite `u`.
END = 0.999
#: From which share of the range on a difference is named.
NAMED = 0.05
#: A student that agrees with the teacher on fewer clean images has no answers yet whose keeping would mean something.
TRAINED = 0.5


@dataclass(frozen=True, slots=True)
class ParameterDiagnosis:
    """One row: a parameter by itself, the others at the identity, or a block of many together.

    Attributes:
        name: of the parameter or the block.
        unit: of `values`.
        shares: where in the range the values lie, in [-1, 1], 0 being the identity.
        values: the physical ones (for a block: `shares`).
        teacher_keeps, student_keeps: the share of images on which each gives its own answer to the clean image.
        student_agrees: the share on which the student gives the teacher's answer to the clean image.
        teacher_change, student_change: the mean change of each one's answer, nats.
    """

    name: str
    unit: str
    shares: tuple[float, ...]
    values: tuple[float, ...]
    teacher_keeps: tuple[float, ...]
    student_keeps: tuple[float, ...]
    student_agrees: tuple[float, ...]
    teacher_change: tuple[float, ...]
    student_change: tuple[float, ...]

    @property
    def to_transfer(self) -> float:
        """Mean over the range of how much more often the teacher keeps its answer, where it does; in [0, 1]."""
        return self._mean([max(0.0, t - s) for t, s in zip(self.teacher_keeps, self.student_keeps, strict=True)])

    @property
    def teacher_mean(self) -> float:
        """Mean of `teacher_keeps` over the range."""
        return self._mean(self.teacher_keeps)

    @property
    def student_mean(self) -> float:
        """Mean of `student_keeps` over the range."""
        return self._mean(self.student_keeps)

    @property
    def identity(self) -> int:
        """Which of the values is the identity."""
        return min(range(len(self.shares)), key=lambda index: abs(self.shares[index]))

    def reach(self, keeps: tuple[float, ...], kept: float) -> tuple[float, float]:
        """The values about the identity between which at least `kept` of the images keep their answer."""
        ends = []
        for step in (-1, 1):
            index = self.identity
            end = self.values[index]
            while 0 <= index + step < len(keeps):
                here, there = keeps[index], keeps[index + step]
                if there < kept:
                    part = (here - kept) / (here - there) if here > kept else 0.0
                    end = self.values[index] + part * (self.values[index + step] - self.values[index])
                    break
                index += step
                end = self.values[index]
            ends.append(end)
        return ends[0], ends[1]

    def _mean(self, heights: tuple[float, ...] | list[float]) -> float:
        area = torch.trapezoid(*(torch.tensor(values, dtype=torch.float64) for values in (heights, self.shares)))
        return float(area) / (self.shares[-1] - self.shares[0])


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What `diagnose` finds; printed, it is a table.

    Attributes:
        rows: by parameter.
        kept: the share of images that counts as keeping the answer.
        images: how many were looked at.
    """

    rows: tuple[ParameterDiagnosis, ...]
    kept: float
    images: int

    @property
    def missing(self) -> tuple[str, ...]:
        """The parameters with something to transfer, the most first."""
        found = sorted(self.rows, key=lambda row: -row.to_transfer)
        return tuple(row.name for row in found if row.to_transfer > NAMED)

    @property
    def agreement(self) -> float:
        """The share of clean images, in [0, 1], to which the student gives the teacher's answer."""
        return self.rows[0].student_agrees[self.rows[0].identity]

    def __str__(self) -> str:
        return f"{self.table()}\n{self._conclusion()}"

    def table(self) -> str:
        """Plain text: from where to where each player keeps its answer, how often, and what there is to transfer."""
        head = ("parameter", "unit", "teacher keeps", "student keeps", "teacher", "student", "to transfer")
        lines = [
            (
                row.name,
                row.unit,
                *("{:.3g} to {:.3g}".format(*row.reach(k, self.kept)) for k in (row.teacher_keeps, row.student_keeps)),
                *(f"{100 * share:.0f} %" for share in (row.teacher_mean, row.student_mean, row.to_transfer)),
            )
            for row in self.rows
        ]
        return _aligned([head, *lines])

    def transferred(self, before: Diagnosis) -> str:
        """Plain text: what there was to transfer, what is left, and the share that has gone.

        Raises:
            ValueError: a diagnosis of other parameters.
        """
        if [row.name for row in before.rows] != [row.name for row in self.rows]:
            raise ValueError("diagnoses of different transforms: the parameters' names differ")
        head = ("parameter", "to transfer before", "after", "transferred")
        lines = []
        for was, row in zip(before.rows, self.rows, strict=True):
            share = 1 - row.to_transfer / was.to_transfer if was.to_transfer > NAMED else None
            texts = (f"{100 * was.to_transfer:.0f} %", f"{100 * row.to_transfer:.0f} %")
            lines.append((row.name, *texts, "" if share is None else f"{100 * share:.0f} %"))
        return _aligned([head, *lines])

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {
            **asdict(self),
            "agreement": self.agreement,
            "missing": list(self.missing),
            "to_transfer": {r.name: r.to_transfer for r in self.rows},
        }

    def _conclusion(self) -> str:
        if self.agreement < TRAINED:
            return (
                f"The student gives the teacher's answer to {100 * self.agreement:.0f} % of the clean images only: it "
                "has no answers to keep yet. Distil on clean images first, then look again."
            )
        if not self.missing:
            return (
                f"Nothing to transfer: the student keeps its answer wherever the teacher does ({self.images} images)."
            )
        return f"Most to transfer: {', '.join(self.missing)} ({self.images} images)."


def diagnose(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    transform: Transform,
    *,
    labels: Tensor | None = None,
    values: int = 13,
    kept: float = 0.9,
    batch_size: int = 256,
    input_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Move each parameter of `transform` over its range, the others at the identity, and ask both players.

    To keep an answer means something for a student that has answers: plain distillation on clean images makes one. Of
    one that agrees with the teacher on less than half of them the result says so.

    A block of more than eight parameters (a control grid, the masks of a mix) is one row: all of them drawn uniformly
    from a growing share of their ranges, for each image by itself. What does nothing while another parameter is at the
    identity, as the angle of a motion blur of strength 0, shows as kept.

    Args:
        teacher, student: from images in [0, 1] to logits `(B, K)`. Run in evaluation mode, left as they were.
        images: `(N, C, H, W)` in [0, 1] (or normalised, see `input_normalization`); some hundreds do.
        transform: what may be done to an image.
        labels: `(N,)` integers, for transforms that want them (`Diffusion` of a denoiser with classes).
        values: how many over a two-sided range, at least 3; an even number counts as the next odd one.
        kept: the share of images, in (0, 1), that counts as keeping the answer in the table.
        batch_size: images at a time.
        input_normalization: `(mean, std)` per channel, where the images are normalised; undone first.
        seed: of the draws for blocks, noise and partners.

    Raises:
        TypeError, ValueError: as `HardAugmenter` for such images and players; no images; settings out of range.
    """
    check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), transform=(transform, Transform))
    check_labels(labels, batch=len(images))
    if labels is None and transform.wants_labels:
        raise ValueError(f"{type(transform).__name__} wants the class of each image here: give labels=")
    for name, number, least in (("values", values, 3), ("batch_size", batch_size, 1)):
        if not (isinstance(number, int) and number >= least):
            raise ValueError(f"{name}={number}: wanted a whole number of at least {least}")
    if not 0 < kept < 1:
        raise ValueError(f"kept={kept}: wanted a share in (0, 1)")
    players = Players(teacher=teacher, student=student)
    images = ImageCheck(players.device, input_normalization)(images)
    if len(images) == 0:
        raise ValueError("diagnose wants at least one image")
    half = values // 2
    with torch.no_grad(), evaluation_mode(players.teacher, players.student):
        known = Context(None if labels is None else labels.to(images.device))
        looks = _looks(players, images, transform, known, batch_size, seed)
        rows = tuple(_row(looks, transform, *group, half=half, seed=seed) for group in _groups(transform.spec))
    return Diagnosis(rows, kept, len(images))


def _looks(
    players: Players, images: Tensor, transform: Transform, whole: Context, batch_size: int, seed: int
) -> list[_Look]:
    """The images in batches; noise and partners are those of all images, whatever the size of a batch."""
    generator = torch.Generator().manual_seed(seed)
    batches = torch.split(images, batch_size)
    answers = [(players.teacher_logits(batch), players.student_logits(batch)) for batch in batches]
    check_same_classes(teacher_logits=answers[0][0], student_logits=answers[0][1])
    everywhere: tuple[Tensor, ...] = ()
    if transform.wants_noise:
        whole = replace(whole, noise=torch.randn(images.shape, generator=generator).to(images))
    if transform.wants_partner:
        partner = draws.partners(len(images), generator).to(images.device)
        whole = replace(whole, partner_images=images[partner])
        everywhere = tuple(torch.cat(logits)[partner] for logits in zip(*answers, strict=True))
    looks, start = [], 0
    for batch, clean in zip(batches, answers, strict=True):
        rows = slice(start, start + len(batch))
        start = rows.stop
        context = whole.rows(rows)
        contexts = [replace(context, partner_logits=logits[rows]) for logits in everywhere] or [context, context]
        looks.append(_Look(players, batch, transform, clean, contexts))
    return looks


@dataclass(frozen=True, slots=True)
class _Look:
    """A batch under a transform.

    Attributes:
        clean: the teacher's answer to the images, and the student's.
        contexts: the same for both, but for the answers to the partners.
    """

    players: Players
    images: Tensor
    transform: Transform
    clean: tuple[Tensor, Tensor]
    contexts: list[Context]

    def at(self, u: Tensor) -> Tensor:
        """`(5,)`: sums over the images of teacher keeps, student keeps, student agrees, and both changes."""
        hard = self.transform(self.images, u, self.contexts[0])
        hard = hard if self.transform.bounded else hard.clamp(0, 1)
        answers = (self.players.teacher_logits(hard), self.players.student_logits(hard))
        wanted = [
            self.transform.reference(clean, u, context)
            for clean, context in zip(self.clean, self.contexts, strict=True)
        ]
        tops = [answer.argmax(1) for answer in answers]
        keeps = [top == reference.argmax(1) for top, reference in zip(tops, wanted, strict=True)]
        changes = [
            teacher_change(reference_logits=reference, hard_logits=answer)
            for reference, answer in zip(wanted, answers, strict=True)
        ]
        sums = [*keeps, tops[1] == wanted[0].argmax(1), *changes]
        return torch.stack([values.double().sum() for values in sums]).cpu()


def _groups(spec: tuple[Parameter, ...]) -> Iterator[tuple[str, list[int]]]:
    """Names, and the columns of `u` that belong to each."""
    seen: set[str] = set()
    for index, parameter in enumerate(spec):
        block = [i for i, other in enumerate(spec) if other.block == parameter.block]
        if len(block) <= LARGEST_SINGLE:
            yield parameter.name, [index]
        elif parameter.block not in seen:
            seen.add(parameter.block)
            yield f"{parameter.block} ({len(block)} parameters)", block


def _row(
    looks: list[_Look], transform: Transform, name: str, columns: list[int], *, half: int, seed: int
) -> ParameterDiagnosis:
    single = len(columns) == 1
    parameter = transform.spec[columns[0]]
    from_identity = parameter.one_sided or not single
    shares = [END * step / half for step in range(0 if from_identity else -half, half + 1)]
    device, images = looks[0].images.device, sum(len(look.images) for look in looks)
    found = []
    for share in shares:
        generator = torch.Generator().manual_seed(seed)
        fraction = torch.zeros(images, transform.size)
        fraction[:, columns] = share
        if not single:
            fraction[:, columns] *= 2 * torch.rand(images, len(columns), generator=generator) - 1
        u = torch.special.ndtri((1 + fraction) / 2).to(device)
        parts = torch.split(u, [len(look.images) for look in looks])
        total = torch.stack([look.at(part) for look, part in zip(looks, parts, strict=True)]).sum(0)
        found.append((total / images).tolist())
    values = shares
    if single:
        u = torch.zeros(len(shares), transform.size)
        u[:, columns[0]] = torch.special.ndtri((1 + torch.tensor(shares)) / 2)
        values = transform.decode(u.to(device))[parameter.name].tolist()
    measured = [tuple(column) for column in zip(*found, strict=True)]
    unit = parameter.unit if single else "share of the ranges"
    return ParameterDiagnosis(name, unit, tuple(shares), tuple(values), *measured)


def _aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
