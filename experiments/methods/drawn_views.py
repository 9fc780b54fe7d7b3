"""Baselines: published augmentations for distillation that HARD is compared with.

| config | class | source |
|---|---|---|
| `mixup` | `baselines_mixing.Mixup` | Zhang et al., arXiv:1710.09412 |
| `cutmix` | `baselines_mixing.CutMixed` | Yun et al., arXiv:1905.04899 |
| `cutmixpick` | `baselines_mixing.CutMixPick` | Wang et al., NeurIPS 2022, arXiv:2012.02909 |
| `randaugment` | `baselines_torchvision.RandAugmented` | Cubuk et al., arXiv:1909.13719 |
| `trivialaugment` | `baselines_torchvision.TrivialAugmented` | Müller and Hutter, arXiv:2103.10158 |
| `augmix` | `baselines_torchvision.AugMixed` | Hendrycks et al., arXiv:1912.02781 |
| `consistent_mixup` | `baselines_consistent.ConsistentMixup` | Beyer et al., arXiv:2106.05237 |
| `label_adversary` | `baselines_adversary.LabelAdversary` | after Suzuki, arXiv:2203.00282 |

All do the work of `experiments.methods.base.TwoViewMethod` (the teacher on two views, one forward pass of the student on
both together, half of the loss each) on the same batches; each class documents its differences. The teacher predicts on
the images that the student sees, so no mixed labels are needed. To add a baseline, subclass `Method` and add a file to
`conf/baseline`; its constructor is passed those of `teacher`, `student`, `temperature`, `seed` and `classes` that its
signature names.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from experiments.methods.base import SeededViews


@contextmanager
def seeded_from(generator: torch.Generator) -> Iterator[None]:
    """Seed torch's global CPU generator from `generator` within the block and restore its state afterwards.

    For transforms that accept no generator.

    Args:
        generator: on the CPU; one number is drawn from it.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the GPUs' generators
        yield


class DrawnViews(SeededViews):
    """The second view is made by a random augmentation that draws from the method's own CPU generator.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        seed: of the generator.
    """

    @abstractmethod
    def draw(self, images: Tensor) -> Tensor:
        """Return views `(B, C, H, W)` in [0, 1] of `images`; may use the global generator, see `seeded_from`."""

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        with seeded_from(self._generator):
            return self.draw(images)
