"""Generation: one call of an augmenter, from checked clean images to a batch, perhaps with updates of the policy."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hard_aug.batch import HardBatch
from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.inner_loop.image_check import ImageCheck
from hard_aug.losses.two_view import TwoViewLoss
from hard_aug.objectives import Reference
from hard_aug.ops.backend import use_backend
from hard_aug.schedules import Schedule, ScheduleRunner
from hard_aug.transforms import make_context
from hard_aug.utils.checks import check_same_classes
from hard_aug.utils.rows import cat_rows


class Generation:
    """Makes batches of hard images.

    Args:
        adversary: draws, renders and learns.
        schedule: how many images the policy's gradient, or a search, takes.
        runner: of the schedule.
        two_view_loss: of the batches.
        check: of images and labels; undoes the loader's normalisation.

    Attributes:
        checked_student: whether a forward of the student has been checked; until then each call runs it.
    """

    def __init__(
        self,
        *,
        adversary: Adversary,
        schedule: Schedule,
        runner: ScheduleRunner,
        two_view_loss: TwoViewLoss,
        check: ImageCheck,
    ) -> None:
        self._adversary, self._schedule, self._runner = adversary, schedule, runner
        self._two_view_loss, self._check = two_view_loss, check
        self.checked_student = False

    def __call__(self, images: Tensor, labels: Tensor | None, rows: int, *, updates: bool, refines: bool) -> HardBatch:
        """Generate a batch, with both networks in evaluation mode.

        Args:
            images: `(B, C, H, W)` in [0, 1], detached.
            labels: integers `(B,)`.
            rows: how many images, the first ones, get hard views.
            updates: whether the schedule may update the policy.
            refines: whether the policy refines the draws of each image by itself.
        """
        networks = self._adversary.networks
        runs_student = updates or refines or not self.checked_student
        with use_backend(self._two_view_loss.backend), networks.eval_mode(student=runs_student):
            with torch.no_grad():
                clean_logits = networks.teacher(images)
            if labels is not None and self._adversary.objective.requires_labels:
                labels = self._check.labels(labels, classes=clean_logits.shape[1])
            clean, rest = self._clean_batch(images, clean_logits, labels, rows, updates or refines), clean_logits[rows:]
            part = clean.first(self._schedule.rows(rows))
            if updates:
                self._runner.before_sample(part)
            with torch.no_grad():
                u = self._adversary.optimizer.sample(clean.images, self._adversary.generator).u
            if refines:
                u = torch.cat((self._adversary.refine(part, u[: len(part)]), u[len(part) :]))
            with torch.no_grad():
                hard = self._adversary.transform.render(clean.images, u, clean.context)
                teacher_logits = networks.teacher(hard) if rows or not len(images) else rest[:0]
                reference = self._adversary.reference(clean, u)
            observer = self._runner.after_sample(clean, hard, reference) if updates else None
        return HardBatch(
            images=cat_rows(hard, images[rows:]) if rows else images.clone(),
            clean_images=images,
            num_hard=rows,
            u=torch.cat((u, u.new_zeros(len(rest), u.shape[1]))),
            context=clean.context,
            teacher_logits=torch.cat((teacher_logits, rest)),
            clean_teacher_logits=clean_logits,
            reference=Reference(torch.cat((reference.teacher_logits, rest)), labels=labels),
            transform=self._adversary.transform,
            objective=self._adversary.objective,
            two_view_loss=self._two_view_loss,
            observer=observer,
            normalization=self._check.normalization,
        )

    def _clean_batch(
        self, images: Tensor, clean_logits: Tensor, labels: Tensor | None, rows: int, compares: bool
    ) -> CleanBatch:
        """Return the images that get hard views, with what the inner loop compares with and the transform needs."""
        adversary, networks = self._adversary, self._adversary.networks
        if not self.checked_student and len(images):
            with torch.no_grad():
                # Two: BatchNorm without running statistics refuses a single one.
                student_logits = networks.student(images[:2])
            check_same_classes(teacher_logits=clean_logits, student_logits=student_logits)
            self.checked_student = True
        source, labels = images[:rows], None if labels is None else labels[:rows]
        reference = Reference(clean_logits[:rows], labels=labels)
        if compares and adversary.objective.requires_student_reference:
            with torch.no_grad():
                reference = replace(reference, student_logits=networks.student(source))
        context = make_context(
            adversary.transform,
            source,
            generator=adversary.generator,
            labels=labels,
            teacher_logits=reference.teacher_logits,
        )
        return CleanBatch(source, reference, context)
