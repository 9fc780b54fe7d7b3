"""One ascent of the policy: from the gradient of the objective to new parameters, or to nothing if it is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hard_aug.objectives import Invariance
from hard_aug.policies import Policy
from hard_aug.processes import Processes
from hard_aug.spread import Spread


class Ascent:
    """Ascends `E[D - cost(I)] + weight * relative_entropy(policy)` with Adam; see `hard_aug.spread`.

    Args:
        policy: what is learned; perhaps nothing.
        invariance: its multiplier is updated once per ascent.
        spread: its uniform share is updated once per ascent.
        learning_rate: of Adam, above 0.
        processes: those whose gradients are averaged before they are used.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        invariance: Invariance,
        spread: Spread,
        learning_rate: float,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.policy = policy
        self.processes = processes
        self.invariance = invariance
        self.spread = spread
        self.parameters: list[Tensor] = list(policy.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters or [torch.zeros((), device=device)],
            lr=learning_rate,
            betas=(0.9, 0.99),
            capturable=device.type == "cuda",
            fused=device.type == "cpu" or None,
        )
        self.dropped = torch.zeros((), dtype=torch.int64, device=device)

    def apply(self, gradients: Sequence[Tensor], change: tuple[Tensor, Tensor], rows: int, images: Tensor) -> None:
        """Ascend along `gradients`, one per parameter of the policy, of the mean of `D - cost(I)` over `rows` rows.

        A step with a gradient or a mean that is not finite leaves everything as it was and is counted in `dropped`, in
        all processes alike. On a GPU that is decided there, without waiting for it.

        Args:
            gradients: of this process's mean.
            change: the sum of `I` over the policy's own draws, and how many these are.
            rows: how many images the mean is over; 0: this process has nothing to say, and only follows the others.
            images: `(n, C, H, W)`, for a policy that looks at them.
        """
        if not self.parameters:
            return
        if rows:
            with torch.enable_grad(), torch.autocast(self.dropped.device.type, enabled=False):
                entropy = self.policy.relative_entropy(images)
                bonus = torch.autograd.grad(entropy, self.parameters, allow_unused=True)
            gradients = [g if b is None else g + self.spread.weight * b for g, b in zip(gradients, bonus, strict=True)]
        *gradients, total, own = self.processes.mean([*gradients, *(part / max(rows, 1) for part in change)], rows)
        mean_change = torch.where(own > 0, total / own.clamp(min=1e-9), 0.0)
        finite = torch.stack([g.isfinite().all() for g in gradients] + [mean_change.isfinite().all()]).all()
        if self.dropped.is_cuda:
            self._apply_without_waiting(gradients, mean_change, finite, images)
        elif bool(finite):
            self._adam(gradients)
            self._take_note(mean_change, images)
        else:
            self.dropped += 1

    def _adam(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = -gradient
        try:
            self.optimizer.step()
        finally:
            for parameter in self.parameters:
                parameter.grad = None

    def _take_note(self, mean_change: Tensor, images: Tensor) -> None:
        self.invariance.update(mean_change)
        share = torch.zeros(self.policy.size, device=self.dropped.device)
        if len(images) or not self.policy.looks_at_images:
            with torch.autocast(self.dropped.device.type, enabled=False):
                share = self.policy.variance_share(images)
        if self.policy.looks_at_images:
            (share,) = self.processes.mean([share], len(images))
        self.spread.update(share)

    def _apply_without_waiting(
        self, gradients: Sequence[Tensor], mean_change: Tensor, finite: Tensor, images: Tensor
    ) -> None:
        """Step, then put everything back where the step was not finite; the host never learns which it was."""
        before = [tensor.clone() for tensor in self.state()]
        fresh = not self.optimizer.state
        self._adam([gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in gradients])
        self._take_note(mean_change.nan_to_num(0.0, 0.0, 0.0), images)
        with torch.no_grad():
            after = self.state()
            if fresh:  # Adam has only now made its moments, which start at zero
                before += [torch.zeros_like(tensor) for tensor in after[len(before) :]]
            for tensor, old in zip(after, before, strict=True):
                tensor.copy_(torch.where(finite, tensor, old))
            self.dropped += ~finite

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes; Adam's come last."""
        moments = [
            value
            for parameter in self.parameters
            for value in self.optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor)
        ]
        return [*[p.data for p in self.parameters], *self.invariance.buffers(), self.spread.uniform_share, *moments]

    def state_dict(self) -> dict[str, Any]:
        """Copies of the policy, its optimiser, the multiplier, the uniform share and the count of dropped steps."""
        return {
            "policy": {name: value.detach().clone() for name, value in self.policy.state_dict().items()},
            "optimizer": _cloned(self.optimizer.state_dict()),
            "invariance": {name: value.clone() for name, value in self.invariance.state_dict().items()},
            "uniform_share": self.spread.uniform_share.clone(),
            "dropped": self.dropped.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()` of an ascent with a policy of the same form."""
        self.policy.load_state_dict(state["policy"])
        self.invariance.load_state_dict(state["invariance"])
        self.optimizer.load_state_dict(_cloned(state["optimizer"]))
        for group in self.optimizer.param_groups:  # the state may come from another device
            group["capturable"] = self.dropped.is_cuda
        self.spread.uniform_share.copy_(state["uniform_share"])
        self.dropped.copy_(state["dropped"])


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list) else value
