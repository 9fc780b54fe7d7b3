"""BatchNorm on clean and hard views: which statistics each of them is normalised by, and which are remembered.

| mode | clean view | hard view | running statistics of |
|---|---|---|---|
| `shared` | those of both views together | the same | both |
| `frozen` | its own | the running ones, as in evaluation | the clean view |
| `split` | its own | its own | the clean view |

`shared` is plain concatenation. Statistics apart are the idea of AdvProp (Xie et al., arXiv:1911.09665), which gives
the hard view scales and offsets of its own too; here both views share them. Only modules in training mode count. What a
module does beside (timm's apply the activation too) it does for both views. Students that recompute activations in
their backward (`torch.utils.checkpoint`) want `shared`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hard_aug.models.guard import unwrapped

BatchNormMode = Literal["shared", "frozen", "split"]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class ViewStatistics:
    """Keeps the views of one forward apart in a student's BatchNorm modules.

    Args:
        student: wrapped or not; its modules are looked up at each forward.
        mode: see the table above.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, student: nn.Module, mode: BatchNormMode) -> None:
        if mode not in get_args(BatchNormMode):
            raise ValueError(f"batch_norm={mode!r}: wanted one of {', '.join(get_args(BatchNormMode))}")
        self.mode = mode
        self._student = student
        self._forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        self._clean = self._total = 0

    @contextmanager
    def of(self, *, clean: int, hard: int) -> Iterator[None]:
        """Within it the student's forward is on `clean` rows and `hard` ones after them.

        Raises:
            ValueError: a module whose statistics can't be kept apart.
        """
        modules = [] if self.mode == "shared" or not hard else self._modules()
        self._clean, self._total = clean, clean + hard
        try:
            for module in modules:
                module.forward = self._forwards[module]  # put back below
            yield
        finally:
            for module in modules:
                del module.forward  # that of the class shows again

    def _modules(self) -> list[nn.Module]:
        found: list[nn.Module] = []
        for module in unwrapped(self._student).modules():
            if not isinstance(module, _BatchNorm) or not module.training:
                continue
            if isinstance(module, nn.SyncBatchNorm) or "forward" in vars(module):
                raise ValueError(
                    f"batch_norm={self.mode!r} can't keep the views apart in {type(module).__name__} (it is "
                    "synchronised, or its forward is replaced); use batch_norm='shared'"
                )
            if self.mode == "frozen" and module.running_mean is None:
                raise ValueError(
                    "batch_norm='frozen' wants running statistics, and a BatchNorm was made with "
                    "track_running_stats=False; use batch_norm='split'"
                )
            # One function for each module, however often it is put in: torch.compile knows it again.
            if module not in self._forwards:
                self._forwards[module] = self._forward(module)
            found.append(module)
        return found

    def _forward(self, module: _BatchNorm) -> Callable[[Tensor], Tensor]:
        frozen = self.mode == "frozen"
        inside = type(module).forward

        def forward(values: Tensor) -> Tensor:
            per_image, left = divmod(len(values), self._total)
            if left:
                raise ValueError(
                    f"batch_norm={'frozen' if frozen else 'split'!r}: a BatchNorm got {len(values)} rows for "
                    f"{self._total} images, so the views can't be told apart; use batch_norm='shared'"
                )
            first, second = values[: self._clean * per_image], values[self._clean * per_image :]
            with _running_statistics_aside(module, training=not frozen):
                hard = inside(module, second)
            return torch.cat((inside(module, first), hard))

        return forward


@contextmanager
def _running_statistics_aside(module: _BatchNorm, *, training: bool) -> Iterator[None]:
    """Within it the module is in this mode, and its running statistics are copies, which it may change."""
    kept = {name: module._buffers[name] for name in STATISTICS if module._buffers.get(name) is not None}
    before = module.training
    try:
        module.training = training
        module._buffers.update({name: value.clone() for name, value in kept.items() if value is not None})
        yield
    finally:
        module._buffers.update(kept)
        module.training = before
