"""Adversary: draws hard images and learns to, by gradient ascent on the score of teacher and student."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.inner_loop.exploration import Sample
from hard_aug.inner_loop.networks import Networks
from hard_aug.inner_loop.policy_optimizer import PolicyOptimizer
from hard_aug.inner_loop.scoring import Scores, grad_or_none, score_images, score_images_with_gradient
from hard_aug.objectives import Disagreement, Reference
from hard_aug.ops.elementwise import at_least_float32
from hard_aug.transforms import Transform
from hard_aug.utils.running_mean import RunningMean

#: First gradients of the policy that are looked at: by then, some are not zero.
PROBED_GRADIENTS = 3


class Adversary:
    """The inner loop's operations on a clean batch: draw, render, score, update the policy, refine single draws.

    Args:
        networks: teacher and student.
        transform: what may be done to an image.
        objective: what is maximised.
        optimizer: holds the policy and the invariance.
        generator: source of every draw.

    Attributes:
        update: takes a `CleanBatch` and updates the policy once; `update_policy`, or its replay from a CUDA graph.
        disagreement: its mean over the draws of about the last 100 policy updates.
    """

    def __init__(
        self,
        *,
        networks: Networks,
        transform: Transform,
        objective: Disagreement,
        optimizer: PolicyOptimizer,
        generator: torch.Generator,
    ) -> None:
        self.networks, self.transform, self.objective = networks, transform, objective
        self.optimizer, self.generator = optimizer, generator
        self.update: Callable[[CleanBatch], Tensor] = self.update_policy
        self.disagreement = RunningMean(optimizer.dropped.device)
        self._probes_left = PROBED_GRADIENTS

    def reference(self, clean: CleanBatch, u: Tensor) -> Reference:
        """Return what predictions on the images made with `u`, `(B, P)`, are compared with."""
        if not self.transform.requires_partner:
            return clean.reference
        return Reference(self.transform.reference(clean.reference.teacher_logits, u, clean.context))

    def score(self, images: Tensor, reference: Reference) -> Scores:
        """Score rendered images, without gradients."""
        with torch.no_grad():
            return score_images(
                images,
                networks=self.networks,
                reference=reference,
                objective=self.objective,
                invariance=self.optimizer.invariance,
            )

    def update_policy(
        self, clean: CleanBatch, sample: Sample | None = None, *, student: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Update the policy along the gradient of the scores of one sample, or from these alone.

        Args:
            clean: the clean batch.
            sample: parameters with a graph to the policy; None: new ones are drawn.
            student: its logits and its part of the images' gradient, where they are known; None: it is run.

        Returns:
            The mean disagreement before the update, a scalar tensor.
        """
        optimizer, rows = self.optimizer, len(clean)
        if not optimizer.parameters:
            with torch.no_grad():
                u = optimizer.sample(clean.images, self.generator).u
                scores = self.score(self.transform.render(clean.images, u, clean.context), self.reference(clean, u))
            self._learn(clean, u, scores)
            return scores.disagreement.mean()
        with torch.enable_grad():
            sample = optimizer.sample(clean.images, self.generator) if sample is None else sample
            if optimizer.parameters and not sample.u.requires_grad:
                name = type(optimizer.policy).__name__
                raise ValueError(
                    f"the draws of {name} carry no gradient to its parameters: its sample detaches them or runs under "
                    "torch.no_grad(); remove that"
                )
            scores, gradients = self._score_with_gradient(clean, sample.u, optimizer.parameters, student)
        divergence = sample.masked_sum(scores.teacher_divergence)
        kept = sample.masked_sum(scores.kept.to(divergence.total.dtype))
        optimizer.step([g / rows for g in gradients], divergence, kept, clean.images)
        self._learn(clean, sample.u.detach(), scores)
        return scores.disagreement.mean()

    @torch.no_grad()
    def _learn(self, clean: CleanBatch, u: Tensor, scores: Scores) -> None:
        """Have a policy that learns from scores learn by how much the changes raise the disagreement on each image."""
        self.disagreement.add(scores.disagreement.mean())
        if not self.optimizer.policy.learns_from_scores:
            return
        student_logits = at_least_float32(self.networks.student(clean.images))
        before = self.objective(
            teacher_logits=at_least_float32(clean.reference.teacher_logits),
            student_logits=student_logits,
            reference=replace(clean.reference, student_logits=student_logits),
        )
        self.optimizer.learn(u, torch.where(scores.kept, scores.disagreement - before, 0.0))

    def refine(self, clean: CleanBatch, u: Tensor) -> Tensor:
        """Return `u`, `(B, P)`, as the policy improves it for each image by itself; most policies leave it as it is."""

        def sample() -> Tensor:
            with torch.no_grad():
                return self.optimizer.sample(clean.images, self.generator).u

        def score(u: Tensor) -> Tensor:
            with torch.no_grad():
                images = self.transform.render(clean.images, u, clean.context)
                return self.score(images, self.reference(clean, u)).total

        def score_with_gradient(u: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                u = u.detach().requires_grad_()
                scores, (gradient,) = self._score_with_gradient(clean, u, [u])
                return scores.total, gradient

        return self.optimizer.policy.refine(u, sample=sample, score=score, score_with_gradient=score_with_gradient)

    def _score_with_gradient(
        self, clean: CleanBatch, u: Tensor, inputs: list[Tensor], student: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Scores, list[Tensor]]:
        """Score the images made with `u`, and return the gradients of the scores' sum with respect to `inputs`.

        Images of half precision are shown to the networks as such and rendered in float32, in which the gradient comes
        back: in float16 the gradient of confident networks would be zero.
        """
        hard = self.transform.render(at_least_float32(clean.images), u, clean.context)
        reference = self.reference(clean, u)
        scores, image_gradient, reference_gradient = score_images_with_gradient(
            hard.detach().to(clean.images.dtype),
            networks=self.networks,
            reference=reference,
            objective=self.objective,
            invariance=self.optimizer.invariance,
            student=student,
        )
        outputs, weights = ([hard], [image_gradient.to(hard.dtype)]) if hard.requires_grad else ([], [])
        if reference_gradient is not None:
            outputs.append(reference.teacher_logits)
            weights.append(reference_gradient.to(reference.teacher_logits.dtype))
        found = grad_or_none(outputs, inputs, weights) if outputs else [None] * len(inputs)
        if inputs and all(gradient is None for gradient in found):
            raise ValueError(
                f"no gradient reaches the parameters of images made by {type(self.transform).__name__}, so nothing can "
                "be learned: its render detaches them or runs under torch.no_grad(); remove that, or use "
                "policy=Search(transform.spec), which needs no gradient"
            )
        gradients = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
        if self._probes_left:
            self._probe(gradients, image_gradient)
        return scores, gradients

    def _probe(self, gradients: Sequence[Tensor], image_gradient: Tensor) -> None:
        """Warn if the first gradients are all zero though those of the images are not. Synchronises with the device."""
        found = any(bool(gradient.any()) for gradient in gradients)
        self._probes_left = 0 if found else self._probes_left - 1
        if not found and not self._probes_left and bool(image_gradient.any()):
            warnings.warn(
                f"the first {PROBED_GRADIENTS} gradients of the policy are exactly zero, so it learns nothing: "
                f"{type(self.transform).__name__} passes none from its images to its parameters (does it round?), or "
                "the images are constant; use policy=Search(transform.spec), which needs no gradient",
                stacklevel=2,
            )
