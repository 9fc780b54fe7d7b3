"""timm's logit distillation task, with hard views beside the clean ones; requires timm >= 1.0.31.

```python
task = HardDistillationTask(
    model, teacher, augmenter=partial(HardAugmenter, transform=Compose(Affine(), Color())), device=device
)  # in place of LogitDistillationTask
for input, target in loader:  # timm's loader, which normalises the images
    result = task(input, target)
    optimizer.zero_grad(); result["loss"].backward(); optimizer.step()
```

The training loop itself is unchanged. Arguments of timm's training script and what they are here:

| timm | here |
|---|---|
| the temperature of the distillation | `temperature`, also that of the augmenter's objective |
| `--remode rand` or `pixel`, whose values leave [0, 1] | `partial(HardAugmenter, ..., out_of_range="clamp")` |
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.task import DistillationTeacher, LogitDistillationTask
from torch import Tensor, nn

from hard_aug.augmenter import HardAugmenter
from hard_aug.models.eval_mode import unwrap_model
from hard_aug.models.timm import for_channels
from hard_aug.objectives import KL
from hard_aug.utils.checks import check_unit_interval
from hard_aug.utils.settings_repr import describe_settings

logger = logging.getLogger(__name__)


class HardDistillationTask(LogitDistillationTask):
    """`LogitDistillationTask` whose distillation loss is taken on the clean and the hard views.

    Move the student to its device and initialise `torch.distributed` before the task is created; call `compile`,
    `prepare_distributed` and `setup_ema` afterwards, as usual. `get_task_state` returns the augmenter's state, which is
    therefore part of timm's checkpoints.

    Args:
        student_model: timm model to train.
        teacher_model: Name of a timm model, a network, or timm's `DistillationTeacher`. It gets images normalised by
            the `mean` and `std` of its `pretrained_cfg`, unless it normalises by itself, as `Normalized` does.
        augmenter: Creates the augmenter when called with `teacher`, `student` and `normalization`, and `objective` if
            `temperature` is given: `HardAugmenter` with all its other arguments, by `functools.partial`.
        normalization: `(mean, std)` per channel of the loader; None: those of the student's `pretrained_cfg`.
        clean_weight: Weight of the clean view in the distillation loss, in [0, 1].
        criterion: Task loss, as in timm. It is computed from the student's logits on the clean view only.
        criterion_kwargs: Arguments of the default criterion, as in timm.
        distill_loss_weight: Weight of the distillation loss, as in timm.
        task_loss_weight: Weight of the task loss, as in timm; 0.0 trains without labels.
        temperature: Temperature of the distillation loss, above 0, and of the augmenter's objective, unless `augmenter`
            sets an `objective`; None: that of the objective.
        device: Device of the task's modules, as in timm.
        dtype: Data type of the task's modules, as in timm.
        verbose: Whether timm logs the settings.

    Attributes:
        augmenter: The `HardAugmenter`.
        clean_weight: Weight of the clean view in the distillation loss.

    Raises:
        TypeError: If `augmenter` does not take these arguments, or creates anything but a `HardAugmenter`.
        ValueError: If `clean_weight` is outside [0, 1], or if `HardAugmenter` rejects its arguments.

    Example:
        >>> from functools import partial
        >>> import timm, torch
        >>> from hard_aug import Affine, HardAugmenter
        >>> student, teacher = (timm.create_model("test_resnet", num_classes=4) for _ in range(2))
        >>> augmenter = partial(HardAugmenter, transform=Affine())
        >>> task = HardDistillationTask(student, teacher, augmenter=augmenter, verbose=False)
        >>> result = task(torch.randn(2, 3, 32, 32).clamp(-1, 1), torch.tensor([0, 1]))
        >>> result["loss"].backward()
        >>> result["output"].shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        student_model: nn.Module,
        teacher_model: str | nn.Module | DistillationTeacher,
        *,
        augmenter: Callable[..., HardAugmenter],
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        clean_weight: float = 0.5,
        criterion: nn.Module | None = None,
        criterion_kwargs: dict[str, Any] | None = None,
        distill_loss_weight: float | None = None,
        task_loss_weight: float | None = None,
        temperature: float | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(
            student_model,
            teacher_model,
            criterion=criterion,
            criterion_kwargs=criterion_kwargs,
            distill_loss_weight=distill_loss_weight,
            task_loss_weight=task_loss_weight,
            temperature=1.0 if temperature is None else temperature,
            device=device,
            dtype=dtype,
            verbose=verbose,
        )
        check_unit_interval(clean_weight=clean_weight)
        self.clean_weight, self._hard_temperature = clean_weight, temperature
        network: Any = unwrap_model(student_model)  # timm's networks have attributes that nn.Module does not have
        channels = int(network.in_chans)
        place = next(network.parameters()).device
        if normalization is None:
            normalization = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
        buffers: Any = (self.teacher.mean_kd, self.teacher.std_kd)
        pairs = {"teacher": [buffer.flatten().tolist() for buffer in buffers], "student": normalization}
        self.augmenter = _create(
            augmenter,
            teacher=self.teacher.model.to(place),
            student=_TaskStudent(self, network),
            normalization={name: [for_channels(tuple(one), channels) for one in pair] for name, pair in pairs.items()},
            temperature=temperature,
        )

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:  # names as timm has them
        """Compute the losses of a batch.

        Args:
            input: `(B, C, H, W)`, normalised by the loader.
            target: Target of the criterion.

        Returns:
            `loss`, to be minimised; `output`, the student's logits `(B, K)` on the clean view; `task_loss`; `kd_loss`;
            `teacher_consistency`, the fraction of the batch for which the teacher's prediction is unchanged.
        """
        labels = target if self.augmenter.objective.requires_labels else None
        hard = self.augmenter(input, labels)
        kd_loss, output, _ = hard.loss_and_logits(temperature=self._hard_temperature, clean_weight=self.clean_weight)
        task_loss = self.criterion(output, target)
        return {
            "loss": self.task_loss_weight * task_loss + self.distill_loss_weight * kd_loss,
            "output": output,
            "task_loss": task_loss,
            "kd_loss": kd_loss,
            "teacher_consistency": hard.teacher_consistent.float().mean(),
        }

    def extra_repr(self) -> str:
        """Format the settings."""
        settings = describe_settings(self, skip=("augmenter", "temperature", "device", "dtype", "verbose"))
        return f"{settings}, temperature={self._hard_temperature}"

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """Return the augmenter's state; an empty dictionary for the averaged student, which shares the augmenter.

        Args:
            module: Unused, as in timm.
            ema: Whether the state is that of the averaged student.
        """
        return {} if ema else {"augmenter": self.augmenter.state_dict()}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Load a state returned by `get_task_state()`.

        Args:
            state: The state; without one the policy stays as it is, with a warning.
            strict: Whether to raise for the state of another task.
            module: Unused, as in timm.
            ema: Whether the state is that of the averaged student, for which nothing is loaded.

        Raises:
            RuntimeError: If the state is that of another task, and `strict` is True.
        """
        if ema:
            return
        if not state:
            logger.warning("the checkpoint contains no task state: the augmenter's policy is unchanged")
            return
        if "augmenter" in state:
            self.augmenter.load_state_dict(state["augmenter"])
        elif strict:
            raise RuntimeError(
                f"expected a checkpoint of HardDistillationTask, got the task state {sorted(state)}, which has no "
                "augmenter; load with strict=False to leave the policy unchanged"
            )


class _TaskStudent(nn.Module):
    """The task's trainable module, as a wrapper of the student.

    The task wraps its module later (compile, DDP), so the module is looked up at each forward. The unwrapped network,
    which the adversary runs, is `_orig_mod`, as in the wrappers of `torch.compile`.
    """

    def __init__(self, task: LogitDistillationTask, network: nn.Module) -> None:
        super().__init__()
        self._orig_mod = network
        self._task = [task]  # in a list it is not registered as a submodule

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of normalised images."""
        task: Any = self._task[0]
        return task.trainable_module(images)  # type: ignore[no-any-return]


def _create(augmenter: object, *, temperature: float | None, **given: Any) -> HardAugmenter:
    """Call the factory of an augmenter; its objective gets the temperature of the loss, if it sets none."""
    found = f"the class {augmenter.__name__}" if isinstance(augmenter, type) else f"a {type(augmenter).__name__}"
    try:
        if not callable(augmenter) or isinstance(augmenter, HardAugmenter):
            raise TypeError("it is no function that creates one")
        parameters = inspect.signature(augmenter).parameters
        objective = parameters.get("objective")
        if temperature is not None and objective is not None and objective.default is None:
            given["objective"] = KL(temperature)
        inspect.signature(augmenter).bind(**given)
    except TypeError as error:
        raise TypeError(
            f"augmenter: expected a function that takes {', '.join(given)} and creates a HardAugmenter, got {found} "
            f"({error}); use augmenter=functools.partial(HardAugmenter, transform=...)"
        ) from error
    made = augmenter(**given)
    if not isinstance(made, HardAugmenter):
        raise TypeError(
            f"augmenter: expected it to create a HardAugmenter, got a {type(made).__name__}; use "
            "augmenter=functools.partial(HardAugmenter, transform=...)"
        )
    its_own = getattr(made.objective, "temperature", temperature)
    if objective is None and temperature not in (None, its_own):
        warnings.warn(
            f"the distillation loss has the temperature {temperature}, and the augmenter's objective {its_own}; give "
            f"it objective=KL(temperature={temperature}) unless they are meant to differ",
            stacklevel=3,
        )
    return made
