"""Joint: the student's part of the policy's gradient comes from the training loop's own backward.

As in "free" adversarial training (Shafahi et al., arXiv:1904.12843), the gradient that the loss sends to the hard
images is used twice. The gradient that reaches the loss is every factor outside it at once: a GradScaler's, a weight in
a sum of losses, the number of micro-batches. Dividing by it gives the gradient of the hard view's own mean.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.inner_loop.exploration import Sample
from hard_aug.losses.two_view import LossObserver
from hard_aug.objectives import Reference
from hard_aug.schedules.base import Schedule, ScheduleRunner


@dataclass(frozen=True, slots=True)
class Joint(Schedule):
    """Update the policy with the gradient of `HardBatch.loss`, and the teacher's part from a pass of its own.

    A call that is due notes the gradient that the loop's backward sends to the hard images; the next call (or
    `HardAugmenter.state_dict`) adds the teacher's part and updates the policy. It requires the objective `KL` and a
    backward of `HardBatch.loss` or `loss_and_logits`: with a loss of your own the policy does not move.

    Attributes:
        every: update the policy at every n-th call only, from the first on; at least 1.
        fraction: fraction of the batch, in (0, 1], that the policy's gradient comes from (at least one image).

    Example:
        >>> Joint(fraction=0.25, every=6)
        Joint(every=6, fraction=0.25)
    """

    requires_distillation_loss: ClassVar[bool] = True
    requires_learned_policy: ClassVar[bool] = True

    def make_runner(self, adversary: Adversary) -> ScheduleRunner:
        """See `Schedule.make_runner`."""
        return _JointRunner(self, adversary)


@dataclass(slots=True)
class _PendingUpdate:
    """A call whose backward may still come.

    Attributes:
        clean: its clean batch.
        generator_state: before its sample was drawn.
        student: its logits `(n, K)` on the hard images, of the forward that had the backward, and the gradient
            `(n, C, H, W)` of each hard image's own loss; None: no backward yet.
    """

    clean: CleanBatch
    generator_state: Tensor
    student: tuple[Tensor, Tensor] | None = None

    def observe(self, loss: Tensor, hard_images: Tensor, student_logits: Tensor, hard_weight: float) -> None:
        """Note the gradients of one loss whose forward had the leaf `hard_images`, `(n, C, H, W)`."""
        if not (loss.requires_grad and hard_weight):
            return
        outer: list[Tensor] = []

        def note(gradient: Tensor) -> None:
            wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            self.student = student_logits, wide / outer[-1].to(wide.dtype) * (len(hard_images) / hard_weight)

        loss.register_hook(lambda gradient: outer.append(gradient.detach()))  # type: ignore[no-untyped-call]
        hard_images.register_hook(note)  # type: ignore[no-untyped-call]  # untyped in torch


class _JointRunner(ScheduleRunner):
    def __init__(self, schedule: Joint, adversary: Adversary) -> None:
        self._schedule, self._adversary = schedule, adversary
        self._generator_state = adversary.generator.get_state()
        self._pending: _PendingUpdate | None = None

    def before_sample(self, clean: CleanBatch) -> None:
        self._generator_state = self._adversary.generator.get_state()

    def after_sample(self, clean: CleanBatch, hard_images: Tensor, reference: Reference) -> LossObserver:
        self._pending = _PendingUpdate(clean, self._generator_state)
        return self._pending.observe

    def flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None or pending.student is None:
            return
        adversary, rows = self._adversary, self._schedule.rows(len(pending.clean))
        generator = copy.deepcopy(adversary.generator)
        generator.set_state(pending.generator_state)
        with torch.enable_grad(), adversary.networks.eval_mode(student=False):
            sample = adversary.optimizer.sample(pending.clean.images, generator)  # the same again, with a graph
            on_policy = None if sample.on_policy is None else sample.on_policy[:rows]
            student = (pending.student[0][:rows], pending.student[1][:rows])
            adversary.update_policy(pending.clean.first(rows), Sample(sample.u[:rows], on_policy), student=student)
