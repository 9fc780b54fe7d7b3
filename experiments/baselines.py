"""Published augmentations for distillation, each a way of teaching: what HARD is compared with.

| config | class | source |
|---|---|---|
| `mixup` | `baselines_mixing.Mixup` | Zhang et al., arXiv:1710.09412 |
| `cutmix` | `baselines_mixing.CutMixed` | Yun et al., arXiv:1905.04899 |
| `cutmixpick` | `baselines_mixing.CutMixPick` | Wang et al., NeurIPS 2022, arXiv:2012.02909 |
| `randaugment` | `baselines_torchvision.RandAugmented` | Cubuk et al., arXiv:1909.13719 |
| `trivialaugment` | `baselines_torchvision.TrivialAugmented` | Müller and Hutter, arXiv:2103.10158 |
| `augmix` | `baselines_torchvision.AugMixed` | Hendrycks et al., arXiv:1912.02781 |
| `beyer` | `baselines_consistent.ConsistentMixup` | Beyer et al., arXiv:2106.05237 |
| `label_adversary` | `baselines_adversary.LabelAdversary` | after Suzuki, arXiv:2203.00282 |

All do the work of `experiments.methods.SecondView` (the teacher on two views, one student forward on both together,
half of the loss each) and are shown the same batches; what differs is said at the class. The teacher answers the images
that the student sees, so no mixed labels are needed. A new one is a subclass of `Method` and a file in `conf/baseline`;
its constructor is given `teacher`, `student`, `temperature`, `seed` and `classes`, those of them that it names.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from experiments.methods import SecondView


@contextmanager
def seeded_from(generator: torch.Generator) -> Iterator[None]:
    """Within, torch's global generator of the CPU draws what `generator` says; afterwards it is as it was before.

    For transforms that know no other one.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the generators of GPUs as well
        yield


class DrawnViews(SecondView):
    """A second view by an augmentation whose every draw comes from the method's own generator, on the CPU.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        seed: of the generator.
    """

    #: Whether a view is of several images, so that whether the teacher keeps its class is no question.
    mixes = False

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int = 0) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: Tensor | None = None

    @abstractmethod
    def draw(self, images: Tensor) -> Tensor:
        """Views `(B, C, H, W)` in [0, 1] of `images`; may draw from the global generator, see `seeded_from`."""

    def views(self, images: Tensor, labels: Tensor) -> Tensor:
        with seeded_from(self._generator):
            return self.draw(images)

    def see(self, clean: Tensor, view: Tensor) -> None:
        self._kept = None if self.mixes else (clean.argmax(1) == view.argmax(1)).float().mean()

    def scalars(self) -> dict[str, float]:
        return {} if self._kept is None else {"teacher_keeps": float(self._kept)}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
