"""One ascent of the policy: from the gradient of the objective to new parameters, or to nothing if it is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hard_aug.objectives import Invariance
from hard_aug.policies import Policy
from hard_aug.spread import Spread


class Ascent:
    """Ascends `E[D - multiplier I] + weight * relative_entropy(policy)` with Adam; see `hard_aug.spread`.

    Args:
        policy: what is learned.
        invariance: its multiplier is updated once per ascent.
        spread: its uniform share is updated once per ascent.
        learning_rate: of Adam, above 0.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        invariance: Invariance,
        spread: Spread,
        learning_rate: float,
        device: torch.device,
    ) -> None:
        self.policy = policy
        self.invariance = invariance
        self.spread = spread
        self.parameters: list[Tensor] = list(policy.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=learning_rate,
            betas=(0.9, 0.99),
            capturable=device.type == "cuda",
            fused=device.type == "cpu" or None,
        )
        self.dropped = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def multiplier(self) -> Tensor:
        """Of the teacher's change, a scalar."""
        return self.invariance.multiplier

    def apply(self, gradients: Sequence[Tensor], mean_change: Tensor) -> None:
        """Ascend along `gradients` (of the batch mean of `D - multiplier I`, one per parameter of the policy).

        A step with a gradient or a mean that is not finite leaves everything as it was and is counted in `dropped`.
        On a GPU that is decided there, without waiting for it.
        """
        with torch.enable_grad(), torch.autocast(self.dropped.device.type, enabled=False):
            entropy = self.policy.relative_entropy()
            bonus = torch.autograd.grad(entropy, self.parameters, allow_unused=True)
        gradients = [g if b is None else g + self.spread.weight * b for g, b in zip(gradients, bonus, strict=True)]
        finite = torch.stack([g.isfinite().all() for g in gradients] + [mean_change.isfinite().all()]).all()
        if self.dropped.is_cuda:
            self._apply_without_waiting(gradients, mean_change, finite)
        elif bool(finite):
            self._adam(gradients)
            self._take_note(mean_change)
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

    def _take_note(self, mean_change: Tensor) -> None:
        self.invariance.update(mean_change)
        with torch.autocast(self.dropped.device.type, enabled=False):
            self.spread.update(self.policy.variance_share())

    def _apply_without_waiting(self, gradients: Sequence[Tensor], mean_change: Tensor, finite: Tensor) -> None:
        """Step, then put everything back where the step was not finite; the host never learns which it was."""
        before = [tensor.clone() for tensor in self._state()]
        fresh = not self.optimizer.state
        self._adam([gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in gradients])
        self._take_note(mean_change.nan_to_num(0.0, 0.0, 0.0))
        with torch.no_grad():
            after = self._state()
            if fresh:  # Adam has only now made its moments, which start at zero
                before += [torch.zeros_like(tensor) for tensor in after[len(before) :]]
            for tensor, old in zip(after, before, strict=True):
                tensor.copy_(torch.where(finite, tensor, old))
            self.dropped += ~finite

    def _state(self) -> list[Tensor]:
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
