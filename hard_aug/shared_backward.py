"""The `Joint` schedule's ascent: the student's part from the user's own backward, the teacher's from one of ours."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from hard_aug.adversary import Adversary
from hard_aug.models.guard import evaluation_mode
from hard_aug.objectives import Reference
from hard_aug.pending import Accumulated, CallsSinceStep, Pending
from hard_aug.players import Judgement, gradients_of
from hard_aug.schedules import Joint
from hard_aug.spread import own_sum
from hard_aug.transforms import Context

logger = logging.getLogger(__name__)


def autocast_as_now(device: torch.device) -> torch.autocast:
    """The caller's autocast, to be entered again where it has ended."""
    kind = device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))


class SharedBackward:
    """What lies between the calls and the step of the augmenter.

    Args:
        adversary: whose policy ascends.
        teacher_gradient: whether the teacher's part and the invariance are added.
    """

    def __init__(self, adversary: Adversary, *, teacher_gradient: bool) -> None:
        self.adversary = adversary
        self.teacher_gradient = teacher_gradient
        self._calls = CallsSinceStep()
        self._due = 0
        self._accumulated = self._nothing()

    def _nothing(self) -> Accumulated:
        return Accumulated(self.adversary.ascent.parameters, self.adversary.ascent.dropped.device)

    def prepare(
        self,
        images: Tensor,
        u: Tensor,
        own: Tensor | None,
        *,
        context: Context,
        answers: Reference,
        hard: Tensor,
        schedule: Joint,
    ) -> Pending:
        """Watch for the backward that will reach `hard`, `(B, C, H, W)`, made of the first `len(images)` rows."""
        share = schedule.share(len(images))
        pending = Pending(
            images[:share],
            u[:share],
            None if own is None else own[:share],
            context.first(share),
            Reference(answers.teacher_logits[:share]),
            batch=len(hard),
            arrived=self._calls.arrived,
            student=self._student_now if self.teacher_gradient else None,
            autocast=autocast_as_now(images.device),
        )
        pending.watch(hard.requires_grad_())
        self._calls.add(pending)
        self._due += 1
        return pending

    def _student_now(self, hard: Tensor) -> Tensor:
        players = self.adversary.players
        with torch.no_grad(), evaluation_mode(players.student):
            return players.student_logits(hard)

    def step(self, scale: float) -> None:
        """Ascend along what the backwards since the last step have left; without any call that was due, do nothing.

        Args:
            scale: what gradients of losses of the user's own are multiplied by.
        """
        self.resolve()
        missing = self._calls.unanswered
        if missing:
            logger.warning("%d hard batch(es) had no backward before augmenter.step() and are left out", missing)
        self._calls.forget()
        due, self._due = self._due, 0
        done, self._accumulated = self._accumulated, self._nothing()
        ascent = self.adversary.ascent
        # Other processes may have had a backward where this one had none, and wait for it.
        if done.count or (due and not ascent.processes.alone):
            ascent.apply(done.mean_gradients(scale), (done.change, done.own), done.count, done.images)

    def resolve(self) -> None:
        """Turn each micro-batch that had its backward into sums of gradients of the policy's parameters."""
        for one in self._calls.take():
            with evaluation_mode(self.adversary.players.teacher, self.adversary.players.student):
                self._resolve_one(one)

    def _resolve_one(self, one: Pending) -> None:
        adversary = self.adversary
        variables = adversary.policy.variables(one.u)
        student_part = one.per_sample_gradient()
        with torch.enable_grad(), one.autocast:
            if self.teacher_gradient:
                hard, reference, judgement = adversary.assess(
                    one.images, one.u, one.answers, one.context, student_logits=one.student_logits
                )
            else:
                hard, reference = adversary.render_wide(one.images, one.u, one.context), one.answers
                judgement = Judgement.indifferent(student_part)
            scaled = None
            if one.exact:
                judgement.add(student_part)
            else:  # the user's scale is known in step() only, so the student's part is kept apart until then
                scaled = gradients_of(hard, variables, student_part.to(hard.dtype), retain_graph=True)
            exact = adversary.pull_back(hard, reference, judgement, variables)
        change = own_sum(judgement.change, one.own)
        self._accumulated.add(exact=exact, scaled=scaled, change=change, images=one.images)

    def state_dict(self) -> dict[str, Any]:
        """The sums that are still to be used."""
        self.resolve()
        return self._accumulated.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        self._accumulated.load_state_dict(state)

    def forget(self) -> None:
        """What still waits is of no use any more."""
        self._calls.forget()
        self._due = 0
