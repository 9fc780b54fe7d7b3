"""Pending: a micro-batch of the `Joint` schedule between its call and the augmenter's step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hard_aug.objectives import Reference
from hard_aug.transforms import Context


@dataclass(slots=True)
class Look:
    """One call of `HardBatch.loss`: its forward, and what a backward through it has brought.

    The gradient that reaches the loss is every factor outside it at once: GradScaler's, the division by the number of
    micro-batches, a weight in a sum of losses. Dividing by it gives the exact gradient of the hard view's mean.

    Attributes:
        student_logits: `(n, K)`, detached.
        rows: how many hard views its mean is over.
        hard_weight: of the hard view in the loss.
        outer_gradient: scalar, of the loss.
        image_gradient: `(n, C, H, W)`, of the hard view that went through this forward.
    """

    student_logits: Tensor
    rows: int
    hard_weight: float
    outer_gradient: Tensor | None = None
    image_gradient: Tensor | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Pending:
    """What is needed to finish one micro-batch's ascent once the user's backward has run.

    The hooks on the hard images and on the losses hold it; so it lives while a backward can still come.

    Attributes:
        images: `(n, C, H, W)`, the share of the clean batch that the policy learns from.
        u: `(n, P)` with a graph to the policy.
        own: `(n,)` bool, which rows the policy drew itself; None: all.
        context: of the transform.
        answers: those to the clean share, `(n, K)`.
        batch: B, the size of the whole micro-batch, which a loss of the user's own takes its mean over.
        arrived: called with this once, when the first backward has reached the hard images.
        autocast: that of the call, for what is left to do once the caller has left it.
        student: the student's logits for hard images, called in that backward where the loss is the user's own: then
            the weights are still those that the gradient belongs to. None: they are not wanted.
        image_gradient: `(n, C, H, W)`, of a loss of the user's own.
        student_logits: `(n, K)`, the student's on the hard share.
        looks: the calls of `HardBatch.loss` that had a backward.
        expired: the policy has moved on, and later gradients are of no use.
    """

    images: Tensor
    u: Tensor
    own: Tensor | None
    context: Context
    answers: Reference
    batch: int
    arrived: Callable[[Pending], None]
    student: Callable[[Tensor], Tensor] | None
    autocast: torch.autocast
    image_gradient: Tensor | None = None
    student_logits: Tensor | None = None
    looks: list[Look] = field(default_factory=list)
    expired: bool = False

    def watch(self, leaf: Tensor) -> None:
        """Capture the gradient that a loss of the user's own sends to `leaf`, `(B, C, H, W)`."""
        values = leaf.detach()

        def capture(gradient: Tensor) -> None:
            if self.expired:
                return
            fresh = not self.ready
            self.image_gradient = _sum(self.image_gradient, gradient[: len(self.images)])
            if self.student is not None and self.student_logits is None:
                with self.autocast:
                    self.student_logits = self.student(values[: len(self.images)])
            if fresh:
                self.arrived(self)

        leaf.register_hook(capture)  # type: ignore[no-untyped-call]  # untyped in torch

    def observe(self, loss: Tensor, hard_view: Tensor, student_logits: Tensor, hard_weight: float) -> None:
        """Capture the gradients of one `HardBatch.loss`, whose forward had the leaf `hard_view` as its hard images."""
        if not loss.requires_grad or hard_weight == 0:
            return
        look = Look(student_logits[: len(self.images)].detach(), len(hard_view), hard_weight)

        def capture_outer(gradient: Tensor) -> None:
            look.outer_gradient = _sum(look.outer_gradient, gradient)

        def capture(gradient: Tensor) -> None:
            if self.expired:
                return
            fresh = not self.ready
            if look.image_gradient is None:
                self.looks.append(look)
            look.image_gradient = _sum(look.image_gradient, gradient[: len(self.images)])
            self.student_logits = look.student_logits
            if fresh:
                self.arrived(self)

        loss.register_hook(capture_outer)  # type: ignore[no-untyped-call]  # untyped in torch
        hard_view.register_hook(capture)  # type: ignore[no-untyped-call]  # untyped in torch

    @property
    def ready(self) -> bool:
        """Whether a backward has reached the hard images."""
        return self.image_gradient is not None or bool(self.looks)

    @property
    def exact(self) -> bool:
        """Whether the gradient is free of the user's factors: that of `HardBatch.loss` is, and goes before others."""
        return bool(self.looks)

    def per_sample_gradient(self) -> Tensor:
        """`(n, C, H, W)`, at least float32: of each sample's own loss on its hard image."""
        if not self.looks:
            if self.image_gradient is None:
                raise RuntimeError("no backward has reached the hard images; call loss.backward() first")
            return self.image_gradient.to(_wide(self.image_gradient)) * self.batch
        parts = []
        for look in self.looks:
            if look.image_gradient is None or look.outer_gradient is None:
                raise RuntimeError("a backward reached the hard images without passing HardBatch.loss")
            gradient = look.image_gradient.to(_wide(look.image_gradient))
            parts.append(gradient / look.outer_gradient.to(gradient.dtype) * (look.rows / look.hard_weight))
        return torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]


def _sum(total: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient.detach().clone() if total is None else total + gradient.detach()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


class CallsSinceStep:
    """The micro-batches since the last step: those whose backward may still come, and those that had it.

    Attributes:
        unanswered: how many had none so far.
    """

    def __init__(self) -> None:
        self._waiting: weakref.WeakSet[Pending] = weakref.WeakSet()
        self._ready: list[Pending] = []
        self.unanswered = 0

    def add(self, pending: Pending) -> None:
        """A call was made."""
        self._waiting.add(pending)
        self.unanswered += 1

    def arrived(self, pending: Pending) -> None:
        """Its backward has reached the hard images."""
        self._waiting.discard(pending)
        self._ready.append(pending)
        self.unanswered -= 1

    def take(self) -> Iterator[Pending]:
        """Those that had their backward, each kept until it is dealt with; later ones through it are left out."""
        while self._ready:
            yield self._ready[0]
            self._ready.pop(0).expired = True

    def forget(self) -> None:
        """The policy moves on: what still waits is of no use any more."""
        for pending in (*self._waiting, *self._ready):
            pending.expired = True
        self._waiting, self._ready, self.unanswered = weakref.WeakSet(), [], 0


class Accumulated:
    """Sums over the samples since the last step, ready for an ascent.

    Attributes:
        exact: gradients of the policy's parameters, free of any outer factor.
        scaled: those of losses of the user's own, still carrying the user's gradient scale.
        change: of the teacher's answer, `I`, over the policy's own draws.
        own: how many these are.
        count: how many samples.
        images: `(n, C, H, W)`, those of the last micro-batch.
    """

    def __init__(self, parameters: list[Tensor], device: torch.device) -> None:
        self.exact = [torch.zeros_like(p) for p in parameters]
        self.scaled = [torch.zeros_like(p) for p in parameters]
        self.change = torch.zeros((), device=device)
        self.own = torch.zeros((), device=device)
        self.count = 0
        self.images = torch.zeros(0, 1, 1, 1, device=device)

    def add(
        self,
        *,
        exact: list[Tensor],
        scaled: list[Tensor] | None,
        change: tuple[Tensor, Tensor],
        images: Tensor,
    ) -> None:
        """Add one micro-batch's sums."""
        self.exact = [a + b for a, b in zip(self.exact, exact, strict=True)]
        if scaled is not None:
            self.scaled = [a + b for a, b in zip(self.scaled, scaled, strict=True)]
        self.change, self.own = self.change + change[0], self.own + change[1]
        self.count += len(images)
        self.images = images

    def mean_gradients(self, scale: float) -> list[Tensor]:
        """Of the mean over the samples, with the user's scale taken out; zeros where there is none."""
        return [(e + s / scale) / max(self.count, 1) for e, s in zip(self.exact, self.scaled, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Copies of the sums."""
        return {
            "exact": [g.clone() for g in self.exact],
            "scaled": [g.clone() for g in self.scaled],
            "change": self.change.clone(),
            "own": self.own.clone(),
            "count": self.count,
            "images": self.images.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        for own, given in zip((*self.exact, *self.scaled), (*state["exact"], *state["scaled"]), strict=True):
            own.copy_(given)
        self.change, self.own = (self.change.new_tensor(float(state[name])) for name in ("change", "own"))
        self.images, self.count = state["images"].to(self.change.device), int(state["count"])
