"""BatchNorm on clean and hard views: which statistics normalise each view, and which update the running statistics.

| mode | clean view | hard view | running statistics updated with |
|---|---|---|---|
| `shared` | those of both views together | the same | both views |
| `frozen` | its own | the running statistics, as in evaluation | the clean view |
| `split` | its own | its own | the clean view |

`shared` is plain concatenation. Separate statistics are the idea of AdvProp (Xie et al., arXiv:1911.09665), which also
gives the hard view its own scales and offsets; here both views share them. Only modules in training mode are affected.
Whatever else a module does (timm's apply the activation too) it does for both views. Students that recompute
activations in their backward (`torch.utils.checkpoint`) require `shared`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hard_aug.models.eval_mode import unwrap_model
from hard_aug.utils.settings_repr import SettingsRepr

BatchNormMode = Literal["shared", "frozen", "split"]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class ViewStatistics(SettingsRepr):
    """Separates the clean and the hard view of one forward in a student's BatchNorm modules.

    Args:
        student: The student, wrapped (`DistributedDataParallel`, `torch.compile`) or not. Its modules are looked up at
            each forward.
        mode: "shared", "frozen" or "split"; see the table above.

    Raises:
        ValueError: If the mode is unknown.

    Example:
        >>> import torch
        >>> from hard_aug.models import ViewStatistics
        >>> norm = torch.nn.BatchNorm2d(3)
        >>> clean, hard = torch.zeros(4, 3, 2, 2), torch.ones(4, 3, 2, 2)
        >>> with ViewStatistics(norm, "split").of(clean=4, hard=4):
        ...     out = norm(torch.cat((clean, hard)))
        >>> norm.running_mean  # of the clean view only
        tensor([0., 0., 0.])
    """

    def __init__(self, student: nn.Module, mode: BatchNormMode) -> None:
        if mode not in get_args(BatchNormMode):
            raise ValueError(f"batch_norm={mode!r}: expected one of {', '.join(get_args(BatchNormMode))}")
        self.mode, self._student = mode, student
        self._forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
        self._clean = self._total = 0

    def __getstate__(self) -> dict[str, object]:
        """Return the state of a copy, without the functions that belong to the modules of this student."""
        return vars(self) | {"_forwards": {}}

    @contextmanager
    def of(self, *, clean: int, hard: int) -> Iterator[None]:
        """Return a context in which the student's forward is on a batch of clean rows followed by hard rows.

        Args:
            clean: Number of clean rows.
            hard: Number of hard rows.

        Raises:
            ValueError: If the views can't be separated in one of the modules.
        """
        modules = [] if self.mode == "shared" or not hard else self._modules()
        self._clean, self._total = clean, clean + hard
        try:
            for module in modules:
                module.forward = self._forwards[module]  # removed below
            yield
        finally:
            for module in modules:
                del module.forward  # the class's method applies again

    def _modules(self) -> list[nn.Module]:
        found: list[nn.Module] = []
        for module in unwrap_model(self._student).modules():
            if not isinstance(module, _BatchNorm) or not module.training:
                continue
            if isinstance(module, nn.SyncBatchNorm) or "forward" in vars(module):
                raise ValueError(
                    f"batch_norm={self.mode!r} can't separate the views in {type(module).__name__} (it is "
                    "synchronised across processes, or its forward is replaced); use batch_norm='shared'"
                )
            if self.mode == "frozen" and module.running_mean is None:
                raise ValueError(
                    "batch_norm='frozen' requires running statistics, got a BatchNorm with "
                    "track_running_stats=False; use batch_norm='split'"
                )
            # The same function at each forward of a module, so that torch.compile does not recompile.
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
                    f"{self._total} images, so the views can't be separated; use batch_norm='shared'"
                )
            first, second = values[: self._clean * per_image], values[self._clean * per_image :]
            with _with_copied_statistics(module, training=not frozen):
                hard = inside(module, second)
            return torch.cat((inside(module, first), hard))

        return forward


@contextmanager
def _with_copied_statistics(module: _BatchNorm, *, training: bool) -> Iterator[None]:
    """Set the module's training flag and give it copies of its running statistics; restore both at exit."""
    kept = {name: module._buffers[name] for name in STATISTICS if module._buffers.get(name) is not None}
    before = module.training
    try:
        module.training = training
        module._buffers.update({name: value.clone() for name, value in kept.items() if value is not None})
        yield
    finally:
        module._buffers.update(kept)
        module.training = before
