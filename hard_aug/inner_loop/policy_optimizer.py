"""PolicyOptimizer: from the gradient of the objective to new policy parameters, or to nothing if it is not finite."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hard_aug.inner_loop.exploration import Exploration, MaskedSum, Sample, mix_uniform
from hard_aug.objectives import Invariance
from hard_aug.policies import Policy
from hard_aug.utils.checks import check_positive_number
from hard_aug.utils.distributed import ProcessGroup
from hard_aug.utils.host_copy import HostCopy
from hard_aug.utils.state_checks import check_like

#: Steps that are dropped in turn before it is worth a warning. A single one is not: float16 overflows now and then.
MANY_DROPPED = 10


class DrawMeans(NamedTuple):
    """Means over the policy's own draws in all processes; scalars.

    Attributes:
        divergence: of `I`, nats.
        kept: of whether the teacher's prediction is that of the reference.
        exist: bool, whether there are any such draws; without, the means are 0.
    """

    divergence: Tensor
    kept: Tensor
    exist: Tensor


class PolicyOptimizer:
    """Maximises `E[D - cost(I)] + entropy_weight * relative_entropy(policy)` with Adam.

    It owns everything that a policy update changes: the policy's parameters, Adam's moments, the invariance's
    multiplier, the fraction of uniform draws and the count of dropped steps.

    Args:
        policy: what is learned; perhaps nothing.
        invariance: its multiplier is updated once per step.
        exploration: the entropy's weight, and when uniform draws are mixed in.
        learning_rate: of Adam, above 0.
        processes: their gradients are averaged before they are used.
        device: of the policy.

    Attributes:
        parameters: those of the policy.
        uniform_fraction: of the draws, a scalar tensor in [0, 0.95].
        dropped: number of steps dropped because a gradient was not finite, an int64 scalar tensor.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        invariance: Invariance,
        exploration: Exploration,
        learning_rate: float,
        processes: ProcessGroup,
        device: torch.device,
    ) -> None:
        self.policy, self.processes = policy, processes
        self.invariance, self.exploration = invariance, exploration
        self.parameters: list[Tensor] = list(policy.parameters())
        self.optimizer = torch.optim.Adam(
            self.parameters or [torch.zeros((), dtype=torch.float32, device=device)],
            lr=learning_rate,
            betas=(0.9, 0.99),
            capturable=device.type == "cuda",
            fused=device.type == "cpu" or None,
        )
        self.uniform_fraction = torch.full((), exploration.min_uniform_fraction, dtype=torch.float32, device=device)
        self.dropped = torch.zeros((), dtype=torch.int64, device=device)
        self._dropped_in_turn = torch.zeros_like(self.dropped)
        self._dropped_on_host = HostCopy(self._dropped_in_turn)
        self._warns = True

    def sample(self, images: Tensor, generator: torch.Generator) -> Sample:
        """Draw `u` for `images`, `(B, C, H, W)`, from the policy and in part uniformly."""
        with torch.autocast(images.device.type, enabled=False):
            u = self.policy.sample(images, generator)
            return mix_uniform(u, self.uniform_fraction, generator) if self.exploration.is_active else Sample(u)

    def step(self, gradients: Sequence[Tensor], divergence: MaskedSum, kept: MaskedSum, images: Tensor) -> None:
        """Take one step of gradient ascent.

        A step with a gradient or a mean that is not finite changes nothing and is counted in `dropped`, in all
        processes alike. On a GPU this is decided on the device, without synchronisation.

        Args:
            gradients: of the mean of `D - cost(I)` over this process's images, one per parameter of the policy.
            divergence: the sum of `I` over the policy's own draws, and how many these are.
            kept: the number of these draws on which the teacher's prediction is that of the reference, likewise.
            images: `(n, C, H, W)` that the mean is over, for a policy that is conditional.
        """
        rows = len(images)
        with torch.enable_grad(), torch.autocast(self.dropped.device.type, enabled=False):
            entropy = self.policy.relative_entropy(images)
            bonus = torch.autograd.grad(entropy, self.parameters, allow_unused=True)
        weight = self.exploration.entropy_weight
        gradients = [g if b is None else g + weight * b for g, b in zip(gradients, bonus, strict=True)]
        sums = (divergence.total, kept.total, divergence.rows)
        *gradients, total, total_kept, count = self.processes.mean([*gradients, *(one / rows for one in sums)], rows)
        exist = count > 0
        mean_divergence, mean_kept = (
            torch.where(exist, one / count.clamp(min=1e-9), 0.0) for one in (total, total_kept)
        )
        draws = DrawMeans(mean_divergence, mean_kept, exist)
        # Adam keeps the squares: one that overflows would stop it for good.
        finite = torch.stack([g.square().isfinite().all() for g in gradients] + [draws.divergence.isfinite()]).all()
        if self.dropped.is_cuda:
            self._step_on_device(gradients, draws, finite, images)
            return
        if bool(finite):
            self._adam(gradients)
            self._update_statistics(draws, images)
        self._count(finite)

    @property
    def learns(self) -> bool:
        """Whether there is anything that an update changes."""
        return bool(self.parameters) or self.policy.learns_from_scores

    @torch.no_grad()
    def learn(self, u: Tensor, scores: Tensor) -> None:
        """Have the policy learn from the scores of one sample; those that are not finite count 0.

        Args:
            u: the sample, `(n, P)`.
            scores: see `Policy.statistics`, `(n,)`.
        """
        with torch.autocast(u.device.type, enabled=False):
            statistics = self.policy.statistics(u, scores.float().nan_to_num(0.0, 0.0, 0.0))
            means = self.processes.mean([one / len(u) for one in statistics], len(u))
            self.policy.learn([one * (len(u) * self.processes.count) for one in means])

    def _count(self, finite: Tensor) -> None:
        self.dropped += ~finite
        self._dropped_in_turn += 1
        self._dropped_in_turn *= ~finite

    def warn_of_dropped_steps(self) -> None:
        """Warn once if the last `MANY_DROPPED` steps were dropped; on a GPU later, since nothing waits for it."""
        if self._warns and self._dropped_on_host() >= MANY_DROPPED:
            self._warns = False
            warnings.warn(
                f"the last {MANY_DROPPED} policy updates or more were dropped, because their gradient was not finite: "
                "the policy learns nothing. Look at the logits of both networks on hard images: half precision that "
                "overflows (use bfloat16, or float32)? A forward whose derivative is infinite (a square root at 0)? "
                "augmenter.dropped_steps counts these updates",
                stacklevel=3,
            )

    def _adam(self, gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = -gradient
        try:
            self.optimizer.step()
        finally:
            for parameter in self.parameters:
                parameter.grad = None

    def _update_statistics(self, draws: DrawMeans, images: Tensor) -> None:
        before = [buffer.clone() for buffer in self.invariance.buffers()]
        self.invariance.update(draws.divergence, draws.kept)
        for buffer, old in zip(self.invariance.buffers(), before, strict=True):
            buffer.copy_(torch.where(draws.exist, buffer, old))
        if self.exploration.min_variance is None:
            return
        with torch.autocast(self.dropped.device.type, enabled=False):
            variance = self.policy.relative_variance(images)
        if self.policy.is_conditional:
            (variance,) = self.processes.mean([variance], len(images))
        self.uniform_fraction.copy_(self.exploration.uniform_fraction(variance))

    def _step_on_device(self, gradients: Sequence[Tensor], draws: DrawMeans, finite: Tensor, images: Tensor) -> None:
        """Step, then restore everything where the step was not finite, all without synchronisation."""
        before = [tensor.clone() for tensor in self.tensors()]
        first = not self.optimizer.state
        self._adam([gradient.nan_to_num(0.0, 0.0, 0.0) for gradient in gradients])
        self._update_statistics(draws._replace(divergence=draws.divergence.nan_to_num(0.0, 0.0, 0.0)), images)
        with torch.no_grad():
            after = self.tensors()
            if first:  # Adam has only now created its moments, which start at zero
                before += [torch.zeros_like(tensor) for tensor in after[len(before) :]]
            for tensor, old in zip(after, before, strict=True):
                tensor.copy_(torch.where(finite, tensor, old))
        self._count(finite)

    def tensors(self) -> list[Tensor]:
        """Return every tensor that a step changes; Adam's come last."""
        moments = [
            value
            for parameter in self.parameters
            for value in self.optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor)
        ]
        return [*[p.data for p in self.parameters], *self.invariance.buffers(), self.uniform_fraction, *moments]

    def state_dict(self) -> dict[str, Any]:
        """Copy the policy, Adam's state, the multiplier, the uniform fraction and the count of dropped steps."""
        return {
            "policy": _cloned(dict(self.policy.state_dict())),
            "optimizer": _cloned(self.optimizer.state_dict()),
            "invariance": _cloned(dict(self.invariance.state_dict())),
            "uniform_fraction": self.uniform_fraction.clone(),
            "dropped_steps": self.dropped.clone(),
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise unless a state is one of a policy of the same shape, with finite values.

        Args:
            state: with the keys of `state_dict()`, perhaps others too.

        Raises:
            ValueError: it is not; names the entry.
        """
        own, adam = self.state_dict(), state["optimizer"]
        moments, groups = (adam.get(key) if isinstance(adam, dict) else None for key in ("state", "param_groups"))
        if not isinstance(moments, dict) or not isinstance(groups, list) or not isinstance(groups[0], dict):
            raise ValueError("optimizer: expected a state of Adam")
        for key in own.keys() - {"optimizer"}:
            check_like(state[key], own[key], key)
        zero = torch.zeros((), dtype=torch.float32, device="cpu")
        each = [{"step": zero, "exp_avg": one, "exp_avg_sq": one} for one in self.parameters]
        check_like(moments, dict(enumerate(each)) if moments else {}, "optimizer['state']")
        check_positive_number(learning_rate=groups[0]["lr"])
        squares = [one for moment in moments.values() for one in (moment["step"], moment["exp_avg_sq"])]
        if any(bool((one < 0).any()) for one in (*squares, state["dropped_steps"])):
            raise ValueError("a count or a mean of squares is negative")
        if not 0 <= float(state["uniform_fraction"]) <= 1:
            raise ValueError(f"uniform_fraction: expected a fraction in [0, 1], got {float(state['uniform_fraction'])}")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()` for a policy of the same shape."""
        self.policy.load_state_dict(state["policy"])
        self.invariance.load_state_dict(state["invariance"])
        kept = self.optimizer.state_dict()["param_groups"]  # the state may come from another device
        kept[0]["lr"] = state["optimizer"]["param_groups"][0]["lr"]
        self.optimizer.load_state_dict({"state": _cloned(state["optimizer"]["state"]), "param_groups": kept})
        self.uniform_fraction.copy_(state["uniform_fraction"])
        self.dropped.copy_(state["dropped_steps"])


def _cloned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list) else value
