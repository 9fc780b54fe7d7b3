"""AugmenterState: everything that a call of an augmenter changes, saved, loaded and restored together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hard_aug.calibration.first_calls import FirstCalls
from hard_aug.inner_loop.policy_optimizer import PolicyOptimizer
from hard_aug.schedules import ScheduleRunner
from hard_aug.utils.checks import check_integer
from hard_aug.utils.rng import restore_generator


class AugmenterState:
    """The policy with its optimiser, the schedule's state, the generator, and the number of calls.

    Args:
        optimizer: of the policy.
        runner: of the schedule.
        first_calls: the calibration of the policy's start.
        generator: source of every draw.
        seed: of the generator, for states that come from another kind of device.

    Attributes:
        calls: number of calls, without those that evaluate.
        has_evaluated: whether there were such.
    """

    def __init__(
        self,
        *,
        optimizer: PolicyOptimizer,
        runner: ScheduleRunner,
        first_calls: FirstCalls,
        generator: torch.Generator,
        seed: int,
    ) -> None:
        self._optimizer, self._runner, self._generator, self._seed = optimizer, runner, generator, seed
        self._first_calls = first_calls
        self.calls, self.has_evaluated = 0, False

    @contextmanager
    def restored_on_error(self, *, policy: bool) -> Iterator[None]:
        """Restore everything if a block raises.

        Args:
            policy: whether the block changes the policy.
        """
        optimizer = self._optimizer.state_dict() if policy else None
        runner, generator = self._runner.state_dict(), self._generator.get_state()
        restore_first_calls = self._first_calls.snapshot()
        try:
            yield
        except BaseException:
            self._generator.set_state(generator)
            self._runner.load_state_dict(runner)
            if optimizer is not None:
                self._optimizer.load_state_dict(optimizer)
            restore_first_calls()
            raise

    @contextmanager
    def without_draws(self) -> Iterator[None]:
        """Restore the generator after a block that changes nothing else."""
        generator = self._generator.get_state()
        try:
            yield
        finally:
            self._generator.set_state(generator)

    def state_dict(self) -> dict[str, Any]:
        """Return the state; see `HardAugmenter.state_dict`."""
        return {
            **self._optimizer.state_dict(),
            "calls": self.calls,
            "schedule": self._runner.state_dict(),
            "calibration": self._first_calls.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state, or change nothing; see `HardAugmenter.load_state_dict`."""
        if not isinstance(state, dict):
            raise TypeError(f"state dict: expected that of HardAugmenter.state_dict(), got {type(state).__name__}")
        own, restore_first_calls = self.state_dict(), self._first_calls.snapshot()
        if own.keys() != state.keys():
            missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
            raise ValueError(f"state dict: missing {missing}, unknown {unknown}; expected HardAugmenter.state_dict()")
        try:
            self._optimizer.check_state(state)
            check_integer(0, calls=state["calls"])
            self._load(state)
            self._first_calls.load_state_dict(state["calibration"], calls=self.calls)
        except Exception as error:  # whatever a foreign state breaks, the augmenter must stay as it was
            self._load(own)
            restore_first_calls()
            raise ValueError(f"state dict does not fit this augmenter: {error}") from error

    def _load(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)
        self._runner.load_state_dict(state["schedule"])
        calls = int(state["calls"])
        restore_generator(self._generator, state["generator"].cpu(), fallback_seed=self._seed + 1 + calls)
        self.calls = calls
