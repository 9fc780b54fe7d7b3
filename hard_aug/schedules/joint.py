"""Joint: the student's part of the policy's gradient comes from the training loop's own backward.

As in "free" adversarial training (Shafahi et al., arXiv:1904.12843), the gradient that the loss sends to the hard
images is used twice. The gradient that reaches the loss is every factor outside it at once: a GradScaler's, a weight in
a sum of losses, the number of micro-batches. Dividing by it gives the gradient of the hard view's own mean.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.inner_loop.exploration import Sample
from hard_aug.losses.two_view import LossObserver
from hard_aug.objectives import Reference
from hard_aug.schedules.base import Schedule, ScheduleRunner

#: Updates that may be missed in turn before it is worth a warning: batches may be made only to be looked at.
MANY_MISSED = 10


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
        clean: its clean batch; None: the update has been made.
        generator_state: before its sample was drawn.
        student: its logits `(n, K)` on the hard images, of the forward that had the backward, and the gradient
            `(n, C, H, W)` of each hard image's own loss; None: no backward yet.
        logits: those of each forward.
    """

    clean: CleanBatch | None
    generator_state: Tensor | None
    student: tuple[Tensor, Tensor] | None = None
    logits: list[Tensor] = field(default_factory=list)

    def observe(self, loss: Tensor, hard_images: Tensor, student_logits: Tensor, hard_weight: float) -> None:
        """Note the gradients of one loss whose forward had `hard_images`, `(n, C, H, W)`, that require grad."""
        if not (loss.requires_grad and hard_weight and self.clean is not None):
            return
        outer: list[Tensor] = []
        forward, factor = len(self.logits), len(hard_images) / hard_weight
        self.logits.append(student_logits)

        def note(gradient: Tensor) -> None:
            of_loss = outer.pop()
            if self.clean is not None:
                wide = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))
                self.student = self.logits[forward], wide / of_loss.to(wide.dtype) * factor

        loss.register_hook(lambda gradient: outer.append(gradient.detach()))  # type: ignore[no-untyped-call]
        hard_images.register_hook(note)  # type: ignore[no-untyped-call]  # untyped in torch

    def release(self) -> None:
        """Forget all tensors: the hooks live as long as the loss, which the caller may keep."""
        self.clean = self.student = self.generator_state = None
        self.logits.clear()


class _JointRunner(ScheduleRunner):
    def __init__(self, schedule: Joint, adversary: Adversary) -> None:
        self._schedule, self._adversary = schedule, adversary
        self._generator_state = adversary.generator.get_state()
        self._pending: _PendingUpdate | None = None
        self._missed = 0

    def before_sample(self, clean: CleanBatch) -> None:
        self._generator_state = self._adversary.generator.get_state()

    def after_sample(self, clean: CleanBatch, hard_images: Tensor, reference: Reference) -> LossObserver:
        self._adversary.networks.check_gradient(hard_images)  # at this call, not where the gradient is used
        self._pending = _PendingUpdate(clean, self._generator_state)
        return self._pending.observe

    def flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None or pending.clean is None or pending.generator_state is None:
            return
        clean, student, generator_state = pending.clean, pending.student, pending.generator_state
        pending.release()
        self._missed = 0 if student is not None else self._missed + 1
        if student is None:
            if self._missed == MANY_MISSED:
                warnings.warn(
                    f"Joint has seen no backward of hard.loss() or hard.loss_and_logits() for {MANY_MISSED} updates in "
                    "turn, without which the policy does not move; with a loss of your own use schedule=Alternating()",
                    stacklevel=3,
                )
            return
        adversary, rows = self._adversary, self._schedule.rows(len(clean))
        generator = copy.deepcopy(adversary.generator)
        generator.set_state(generator_state)
        with torch.enable_grad(), adversary.networks.eval_mode(student=False):
            sample = adversary.optimizer.sample(clean.images, generator)  # the same again, with a graph
            on_policy = None if sample.on_policy is None else sample.on_policy[:rows]
            student = (student[0][:rows], student[1][:rows])
            adversary.update_policy(clean.first(rows), Sample(sample.u[:rows], on_policy), student=student)
