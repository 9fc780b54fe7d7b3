"""The adversary: the parts that make hard images, and learn to, around the two players."""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug import draws
from hard_aug.ascent import Ascent
from hard_aug.objectives import Disagreement, Invariance, Reference
from hard_aug.players import Judgement, Players, gradients_of
from hard_aug.policies import Policy, Search
from hard_aug.spread import own_sum
from hard_aug.transforms import Context, Transform


class Adversary:
    """Draws, renders, judges and ascends.

    Args:
        players: teacher and student.
        transform, policy, objective, invariance: as `HardAugmenter` has them.
        ascent: the policy's optimiser.
        generator: every draw comes from it.
    """

    def __init__(
        self,
        *,
        players: Players,
        transform: Transform,
        policy: Policy,
        objective: Disagreement,
        invariance: Invariance,
        ascent: Ascent,
        generator: torch.Generator,
    ) -> None:
        self.players = players
        self.transform, self.policy = transform, policy
        self.objective, self.invariance = objective, invariance
        self.ascent = ascent
        self.generator = generator

    def draw(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """`u`, `(B, P)`, and which rows are the policy's own; None: all."""
        generator = self.generator if generator is None else generator
        with torch.autocast(images.device.type, enabled=False):
            return self.ascent.spread.mixed(self.policy.propose(images, generator), generator)

    def context(self, images: Tensor, labels: Tensor | None, clean_logits: Tensor) -> Context:
        """What the transform wants beyond `u`: the partners of a mix, and noise."""
        partner_images = partner_logits = noise = None
        if self.transform.wants_partner:
            partner = draws.partners(len(images), self.generator)
            partner_images, partner_logits = images[partner], clean_logits[partner]
        if self.transform.wants_noise:
            noise = draws.normal(tuple(images.shape), self.generator).to(images.dtype)
        return Context(labels, partner_images, partner_logits, noise)

    def render(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """Hard images in [0, 1], with a graph to `u` if it has one."""
        return self.transform.render(images, u, context)

    def render_wide(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """`render`, in at least float32."""
        return self.render(images.to(torch.promote_types(images.dtype, torch.float32)), u, context)

    def reference(self, answers: Reference, u: Tensor, context: Context) -> Reference:
        """What the answers to the images made with `u` are compared with, from those to the clean ones."""
        if not self.transform.wants_partner:
            return answers
        return Reference(self.transform.reference(answers.teacher_logits, u, context))

    def judge(
        self, hard: Tensor, reference: Reference, *, student_logits: Tensor | None = None, gradient: bool = True
    ) -> Judgement:
        """See `Players.judge`."""
        return self.players.judge(
            hard,
            reference=reference,
            objective=self.objective,
            invariance=self.invariance,
            student_logits=student_logits,
            gradient=gradient,
        )

    def assess(
        self, images: Tensor, u: Tensor, answers: Reference, context: Context, *, student_logits: Tensor | None = None
    ) -> tuple[Tensor, Reference, Judgement]:
        """Hard images and reference with graphs to `u`, and the judgement of them.

        Images of half precision are shown to the players as such and rendered in float32, in which the gradient comes
        back: in float16 that of sure players would be zeros.
        """
        hard = self.render_wide(images, u, context)
        reference = self.reference(answers, u, context)
        judgement = self.judge(hard.detach().to(images.dtype), reference, student_logits=student_logits)
        return hard, reference, judgement

    def ascend(self, images: Tensor, answers: Reference, context: Context) -> Tensor:
        """One ascent step of the policy on a fresh draw, with passes of its own; the mean disagreement before it."""
        with torch.enable_grad():
            u, own = self.draw(images)
            variables = self.policy.variables(u)
            hard, reference, judgement = self.assess(images, u, answers, context)
            gradients = self.pull_back(hard, reference, judgement, variables)
        rows = len(images)
        self.ascent.apply([g / rows for g in gradients], own_sum(judgement.change, own), rows, images)
        return judgement.disagreement.mean()

    @staticmethod
    def pull_back(hard: Tensor, reference: Reference, judgement: Judgement, inputs: list[Tensor]) -> list[Tensor]:
        """Gradients of the sum of the scores with respect to `inputs`, through the images and the reference."""
        if judgement.image_gradient is None:
            raise RuntimeError("the images were judged without a gradient")
        outputs, weights = [hard], [judgement.image_gradient.to(hard.dtype)]
        if judgement.reference_gradient is not None:
            outputs.append(reference.teacher_logits)
            weights.append(judgement.reference_gradient.to(reference.teacher_logits.dtype))
        return gradients_of(outputs, inputs, weights)

    def search(self, policy: Search, images: Tensor, answers: Reference, context: Context) -> Tensor:
        """`u`, `(B, P)`, the hardest that the policy's search finds for each image."""

        def draw() -> Tensor:
            with torch.no_grad():
                return self.draw(images)[0]

        def score(u: Tensor) -> Tensor:
            with torch.no_grad():
                hard, reference = self.render(images, u, context), self.reference(answers, u, context)
                return self.judge(hard, reference, gradient=False).scores

        def ascent(u: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                u = u.detach().requires_grad_()
                hard, reference, judgement = self.assess(images, u, answers, context)
                return judgement.scores, self.pull_back(hard, reference, judgement, [u])[0]

        return policy.search(draw, score, ascent)
