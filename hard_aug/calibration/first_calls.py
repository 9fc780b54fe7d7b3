"""FirstCalls: the images of an augmenter's first calls, on which its policy's start is calibrated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hard_aug.calibration.calibrate import JOINT_KEEP, KEEP, calibrate_network
from hard_aug.calibration.result import Calibration
from hard_aug.models.eval_mode import eval_mode
from hard_aug.models.network import Network
from hard_aug.policies import Policy
from hard_aug.transforms import Transform, make_context
from hard_aug.utils.checks import check_images, check_labels
from hard_aug.utils.distributed import ProcessGroup

#: Number of images, of all processes together.
IMAGES = 128


class FirstCalls:
    """Collects images until there are enough, then calibrates the transform on the teacher and sets the policy's start.

    Args:
        teacher: the network.
        transform: what is calibrated.
        policy: whose `set_reach` is called.
        processes: each calibrates on its own images, and the fractions of kept predictions are averaged.
        seed: of the draws.
        calibration: whether to do all that; or a result, which is used at once.

    Raises:
        TypeError: a calibration that is neither.
        ValueError: one of another transform, or a policy that cannot start from one.

    Attributes:
        calibration: the result; None: not yet.
    """

    def __init__(
        self,
        *,
        teacher: Network,
        transform: Transform,
        policy: Policy,
        processes: ProcessGroup,
        seed: int,
        calibration: bool | Calibration,
    ) -> None:
        if not isinstance(calibration, bool | Calibration):
            raise TypeError(f"calibration={calibration!r}: expected True, False or the result of calibrate()")
        self._wanted = calibration is not False
        self._teacher, self._transform, self._policy, self._processes = teacher, transform, policy, processes
        self._seed = seed
        self._images: Tensor | None = None
        self._labels: Tensor | None = None
        self.calibration: Calibration | None = None
        if isinstance(calibration, Calibration):
            if calibration.transform.spec != transform.spec:
                raise ValueError(
                    "calibration: it is of another transform; give HardAugmenter the transform that was calibrated"
                )
            policy.set_reach(calibration.reach)
            self.calibration = calibration
        elif calibration:
            start = {name: value.clone() for name, value in policy.state_dict().items()}
            policy.set_reach(torch.ones(policy.size, 2, dtype=torch.float32, device="cpu"))  # whether it can
            policy.load_state_dict(start)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return not self._wanted or self.calibration is not None

    @torch.no_grad()
    def add(self, images: Tensor, labels: Tensor | None) -> None:
        """Collect images, `(B, C, H, W)` in [0, 1]; calibrate as soon as there are enough.

        Raises:
            ValueError: labels that the transform requires are missing, images that it does not take, or images of
                another size than before.
        """
        if self.done or not len(images):
            return
        if self._transform.requires_labels and labels is None:
            raise ValueError(f"{type(self._transform).__name__} requires labels: call augmenter(images, labels)")
        labels = labels.clone() if self._transform.requires_labels and labels is not None else None
        if self._images is None:
            self._check_form(images[:2], None if labels is None else labels[:2])
        elif self._images.shape[1:] != images.shape[1:]:
            shapes = " and ".join(str(tuple(part.shape[1:])) for part in (self._images, images))
            raise ValueError(
                f"images of different sizes, {shapes}, cannot be calibrated together; use calibration=False, or "
                "calibrate() beforehand"
            )
        wanted = -(-IMAGES // self._processes.count)
        collected = images.clone() if self._images is None else torch.cat((self._images, images))
        known = labels if self._labels is None or labels is None else torch.cat((self._labels, labels))
        if len(collected) < wanted:
            self._images, self._labels = collected, known
            return
        with eval_mode(self._teacher.inner):
            calibration = calibrate_network(
                self._teacher,
                collected[:wanted],
                self._transform,
                keep=KEEP,
                joint_keep=JOINT_KEEP,
                labels=None if known is None else known[:wanted],
                batch_size=len(images),
                generator=torch.Generator().manual_seed(self._seed + self._processes.rank),
                mean=lambda rates: self._processes.mean([rates], wanted)[0],
            )
        self._policy.set_reach(calibration.reach)
        self._images = self._labels = None
        self.calibration = replace(
            calibration,
            images=wanted * self._processes.count,
            evaluations=calibration.evaluations * self._processes.count,
        )

    def _check_form(self, images: Tensor, labels: Tensor | None) -> None:
        """Raise in the first call, before images are collected, what the transform raises for some of this form."""
        generator = torch.Generator().manual_seed(self._seed)
        context = make_context(self._transform, images, generator=generator, labels=labels)
        u = images.new_zeros(len(images), self._transform.size, dtype=torch.float32)
        self._transform.render(images, u, context)

    def snapshot(self) -> Callable[[], None]:
        """Return a function that restores what has been collected and found so far."""
        before = self._wanted, self._images, self._labels, self.calibration

        def restore() -> None:
            self._wanted, self._images, self._labels, self.calibration = before

        return restore

    def state_dict(self) -> dict[str, Any]:
        """Return the images so far, or the calibration; the policy's start is in the policy's own state."""
        found = self.calibration
        return {
            "images": None if self._images is None else self._images.clone(),
            "labels": None if self._labels is None else self._labels.clone(),
            "result": None if found is None else found.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, calls: int) -> None:
        """Load a state returned by `state_dict()`, or change nothing.

        The policy of a state with calls and without images or a result has learned without a calibration, and goes on
        so.

        Args:
            state: of `state_dict()`.
            calls: number of calls that were made before.

        Raises:
            TypeError: an entry is of the wrong type.
            ValueError: an entry is of the wrong form, or the state does not fit the settings.
        """
        images, labels, result = (state[name] for name in ("images", "labels", "result"))
        if images is None:
            calibration = None if result is None else Calibration.from_state(result, self._transform)
            if labels is not None:
                raise ValueError("calibration: it has labels and no images")
        else:
            if not self._wanted or result is not None:
                raise ValueError("calibration: it has images that nothing is left to do with; use calibration=True")
            calibration, images = None, check_images(images).to(self._teacher.device, copy=True)
            check_labels(labels, batch=len(images))
            if (labels is not None) != self._transform.requires_labels:
                raise ValueError(f"calibration: labels do not fit {type(self._transform).__name__}")
            labels = None if labels is None else labels.to(self._teacher.device, copy=True)
        if calls and images is None and calibration is None:
            self._wanted = False
        self.calibration, self._images, self._labels = calibration, images, labels
