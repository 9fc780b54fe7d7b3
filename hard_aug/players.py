"""The two players, teacher and student, as the inner loop sees them: checked logits in evaluation mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hard_aug.checks import check_logits, check_same_classes
from hard_aug.models.guard import unwrapped
from hard_aug.objectives import Disagreement, Invariance, Reference, teacher_change

#: The gradient of the logits goes into a network with its largest value just under two to this. Larger ones overflow in
#: float16, and smaller ones vanish in the pixels of large images.
LARGEST_EXPONENT = 4


class Players:
    """Holds both networks without registering them anywhere, unwrapped from DDP and `torch.compile`."""

    def __init__(self, *, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher = unwrapped(teacher)
        self.student = unwrapped(student)

    @property
    def device(self) -> torch.device:
        """Where the networks are; the CPU if they hold nothing."""
        for model in (self.student, self.teacher):
            for tensor in (*model.parameters(), *model.buffers()):
                return tensor.device
        return torch.device("cpu")

    def running(self, *, student: bool) -> tuple[nn.Module, ...]:
        """The networks that a call runs: the teacher, and perhaps the student."""
        return (self.teacher, self.student) if student else (self.teacher,)

    def teacher_logits(self, images: Tensor) -> Tensor:
        """`(B, K)`; with a graph to `images` if they have one."""
        return self._logits(self.teacher, images, "teacher")

    def student_logits(self, images: Tensor) -> Tensor:
        """`(B, K)`; with a graph to `images` if they have one."""
        return self._logits(self.student, images, "student")

    @staticmethod
    def _logits(model: nn.Module, images: Tensor, player: str) -> Tensor:
        logits = check_logits(model(images), batch=len(images), player=player)
        if not logits.is_cuda and not math.isfinite(float(logits.detach().sum(dtype=torch.float64))):
            raise ValueError(
                f"the {player} returned NaN or infinite logits; its weights or its own normalisation are off "
                f"(try a lower learning rate, or check {player}(images) on its own)"
            )
        return logits

    def judge(
        self,
        hard_images: Tensor,
        *,
        reference: Reference,
        objective: Disagreement,
        invariance: Invariance,
        student_logits: Tensor | None = None,
        gradient: bool = True,
    ) -> Judgement:
        """Score each hard image, `D - cost(I)`, and say which way it would have to change to score higher.

        Args:
            hard_images: `(B, C, H, W)`; a graph behind them is not followed.
            reference: its `teacher_logits` may carry a graph (those of a mix do).
            objective, invariance: `D` and the cost of the teacher's change `I`.
            student_logits: `(B, K)` constants; None: the student runs, with a gradient.
            gradient: whether gradients are wanted; without, nothing keeps a graph.
        """
        with torch.set_grad_enabled(gradient):
            images = hard_images.detach().requires_grad_(gradient)
            teacher_logits = self.teacher_logits(images)
            if gradient and not teacher_logits.requires_grad:
                raise ValueError(
                    "the teacher's logits carry no gradient to the images: its forward detaches them or runs under "
                    "torch.no_grad(), so its answer can't be kept; remove that (frozen parameters are fine), or use "
                    "schedule=Joint(teacher_gradient=False)"
                )
            if student_logits is None:
                student_logits = self.student_logits(images)
                if gradient and not student_logits.requires_grad:
                    raise ValueError(
                        "the student's logits carry no gradient to the images: its forward detaches them or runs under "
                        "torch.no_grad(); remove that"
                    )
            check_same_classes(teacher_logits=teacher_logits, student_logits=student_logits)
            # Leaves of at least float32: gradients of logits in float16 would be zeros where the players are sure.
            teacher, student, answer = (
                logits.detach().to(_wide(logits)).requires_grad_(gradient and logits.requires_grad)
                for logits in (teacher_logits, student_logits, reference.teacher_logits)
            )
            disagreement = objective(
                teacher_logits=teacher, student_logits=student, reference=replace(reference, teacher_logits=answer)
            )
            change = teacher_change(reference_logits=answer, hard_logits=teacher)
            scores = disagreement - invariance.cost(change)
        judgement = Judgement(scores.detach(), disagreement.detach(), change.detach())
        if gradient:
            leaves = [teacher, student, answer]
            wanted = [leaf for leaf in leaves if leaf.requires_grad]
            found = dict(zip(map(id, wanted), gradients_of(scores.sum(), wanted), strict=True))
            parts = [
                _pulled_back(logits, images, found[id(leaf)])
                for logits, leaf in ((teacher_logits, teacher), (student_logits, student))
                if leaf.requires_grad
            ]
            judgement.image_gradient = parts[0] if len(parts) == 1 else parts[0] + parts[1]
            judgement.reference_gradient = found.get(id(answer))
        return judgement


@dataclass(slots=True)
class Judgement:
    """What `Players.judge` finds, all detached.

    Attributes:
        scores: `(B,)`, `D - cost(I)`.
        disagreement: `(B,)`, `D`.
        change: `(B,)`, `I`, nats.
        image_gradient: `(B, C, H, W)`, at least float32, of each sample's own score.
        reference_gradient: `(B, K)`, of the same, where the reference carries a graph.
    """

    scores: Tensor
    disagreement: Tensor
    change: Tensor
    image_gradient: Tensor | None = None
    reference_gradient: Tensor | None = None

    def add(self, image_gradient: Tensor) -> None:
        """Add what another source says of how the images would have to change."""
        known = self.image_gradient
        self.image_gradient = image_gradient if known is None else image_gradient + known

    @classmethod
    def indifferent(cls, images: Tensor) -> Judgement:
        """Of players to whom all `images`, `(B, C, H, W)`, are the same."""
        nothing = images.new_zeros(len(images))
        return cls(nothing, nothing, nothing, torch.zeros_like(images))


def _pulled_back(logits: Tensor, images: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the images, at least float32, for one of the logits, `(B, K)`.

    Each sample's is scaled by a power of two of its own before it goes through the network and back after: computed in
    float16, those of players that are sure, or that nearly agree, would be zeros, and larger ones would overflow. In
    evaluation mode samples do not mix, so this changes nothing else.
    """
    largest = gradient.abs().amax(-1)
    exponent = torch.where(largest > 0, LARGEST_EXPONENT - torch.frexp(largest).exponent, 0)
    exponent = exponent.clamp(-126, 126).to(gradient.dtype)
    scaled = gradient * torch.exp2(exponent)[:, None]
    (found,) = gradients_of(logits, [images], scaled.to(logits.dtype))
    return found.to(_wide(found)) * torch.exp2(-exponent)[:, None, None, None]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def gradients_of(
    outputs: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Tensor | Sequence[Tensor] | None = None,
    *,
    retain_graph: bool = False,
) -> list[Tensor]:
    """`torch.autograd.grad`, with zeros where an input plays no part.

    Outside the caller's autocast, in which the products of a backward would be taken in low precision, whatever that of
    the forward was.
    """
    if not inputs:
        return []
    with torch.autocast(inputs[0].device.type, enabled=False):
        found = torch.autograd.grad(outputs, inputs, grad_outputs=weights, allow_unused=True, retain_graph=retain_graph)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
