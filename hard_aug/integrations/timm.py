"""timm's logit distillation task, with hard views beside the clean ones; wants timm 1.0.31 or newer.

```python
task = HardDistillationTask(
    model, teacher, augmenter=partial(HardAugmenter, transform=Compose(Affine(), Color())), device=device
)  # 1: in place of LogitDistillationTask
for input, target in loader:  # timm's, which normalises
    result = task(input, target)  # as before
    optimizer.zero_grad(); result["loss"].backward(); optimizer.step()
    task.augmenter.step()  # 2: for `Joint`; otherwise it does nothing
```

A loop that can't be edited takes the second line by `optimizer.register_step_post_hook(lambda *_: ...)`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.task import DistillationTeacher, LogitDistillationTask
from torch import Tensor, nn

from hard_aug.augmenter import HardAugmenter
from hard_aug.models.guard import unwrapped
from hard_aug.models.normalized import Normalized
from hard_aug.models.timm import for_channels

logger = logging.getLogger(__name__)


class HardDistillationTask(LogitDistillationTask):
    """`LogitDistillationTask` whose distillation loss is that of the clean and the hard views.

    Args:
        student_model: one of timm's, in training.
        teacher_model: a name of timm's, a network, or timm's `DistillationTeacher`. One that is `Normalized` gets
            images in [0, 1], others what timm takes them to want: the `mean` and `std` of their `pretrained_cfg`.
        augmenter: makes the augmenter, called with `teacher`, `student` and `input_normalization`: `HardAugmenter`
            with all its other arguments, by `functools.partial`.
        input_normalization: `(mean, std)` per channel of the loader; None: of the student's `pretrained_cfg`, as timm
            has it.
        clean_weight: of the clean view in the distillation loss, in [0, 1].
        criterion, criterion_kwargs, distill_loss_weight, task_loss_weight, device, dtype, verbose: as in timm. The
            criterion sees the student's logits on the clean view alone; `task_loss_weight=0.0` leaves labels out.
        temperature: of the distillation; None: of the augmenter's objective, the one that `Joint` takes.

    The student is on its device before, and `torch.distributed` runs; `compile`, `prepare_distributed` and `setup_ema`
    come after, as usual. The augmenter's state is in `get_task_state`, and so in timm's checkpoints.

    Attributes:
        augmenter: the `HardAugmenter`.
        clean_weight: see above.

    Raises:
        TypeError: an `augmenter` that makes something else.
        ValueError: what `HardAugmenter` or `HardBatch.loss` refuse.
    """

    def __init__(
        self,
        student_model: nn.Module,
        teacher_model: str | nn.Module | DistillationTeacher,
        *,
        augmenter: Callable[..., HardAugmenter],
        input_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
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
        if not 0 <= clean_weight <= 1:
            raise ValueError(f"clean_weight={clean_weight}: wanted a number in [0, 1]")
        self.clean_weight = clean_weight
        self._hard_temperature = temperature
        network: Any = unwrapped(student_model)  # timm's networks have attributes that nn.Module has not
        channels = int(network.in_chans)
        place = next(network.parameters()).device
        if input_normalization is None:
            input_normalization = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
        mean, std = (for_channels(tuple(values), channels) for values in input_normalization)
        self.augmenter = augmenter(
            teacher=_as_player(self.teacher, channels).to(place),
            student=_OfTask(self, Normalized(network, mean, std).to(place)),
            input_normalization=(mean, std),
        )
        if not isinstance(self.augmenter, HardAugmenter):
            raise TypeError(
                f"augmenter made a {type(self.augmenter).__name__}: wanted a HardAugmenter; use "
                "augmenter=functools.partial(HardAugmenter, transform=...)"
            )

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:  # names as timm has them
        """Losses of a batch.

        Args:
            input: `(B, C, H, W)`, normalised by the loader.
            target: what the criterion takes.

        Returns:
            `loss`, to descend; `output`, the student's logits `(B, K)` on the clean view; `task_loss`; `kd_loss`;
            `teacher_keeps`, the share of the hard views on which the teacher keeps its answer.
        """
        labels = target if self.augmenter.objective.wants_labels else None
        hard = self.augmenter(input, labels)
        kd_loss, output, _ = hard.loss_and_logits(temperature=self._hard_temperature, clean_weight=self.clean_weight)
        task_loss = self.criterion(output, target)
        return {
            "loss": self.task_loss_weight * task_loss + self.distill_loss_weight * kd_loss,
            "output": output,
            "task_loss": task_loss,
            "kd_loss": kd_loss,
            "teacher_keeps": hard.unchanged.float().mean(),
        }

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """The augmenter's state; none for the averaged student, which shares it."""
        return {} if ema else {"augmenter": self.augmenter.state_dict()}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Take up `get_task_state()`.

        Raises:
            RuntimeError: the state of another task, if `strict`.
        """
        if ema:
            return
        if not state:
            logger.warning("the checkpoint holds no state of a task: the augmenter's policy stays as it is")
            return
        if "augmenter" in state:
            self.augmenter.load_state_dict(state["augmenter"])
        elif strict:
            raise RuntimeError(
                f"the checkpoint holds {sorted(state)} and no augmenter: it is of another task; load with strict=False "
                "to keep the policy as it is"
            )


class _OfTask(nn.Module):
    """The task's trainable module as a student: images in [0, 1] in, normalised as by the loader.

    The task wraps its module later (compile, DDP), so that is looked up at each forward. The network inside, which the
    adversary runs, is `_orig_mod`, as in the wrappers of `torch.compile`.
    """

    def __init__(self, task: LogitDistillationTask, inside: Normalized) -> None:
        super().__init__()
        self._orig_mod = inside
        self._task = [task]  # in a list it is not registered

    def forward(self, images: Tensor) -> Tensor:
        inside = self._orig_mod
        normalized = (images - inside.mean.to(images.dtype)) / inside.std.to(images.dtype)
        task: Any = self._task[0]
        return task.trainable_module(normalized)  # type: ignore[no-any-return]


def _as_player(teacher: DistillationTeacher, channels: int) -> nn.Module:
    network = unwrapped(teacher.model)
    if isinstance(network, Normalized):
        return network
    buffers: Any = (teacher.mean_kd, teacher.std_kd)
    values = (tuple(buffer.flatten().tolist()) for buffer in buffers)
    mean, std = (for_channels(value, channels) for value in values)
    return Normalized(network, mean, std)
