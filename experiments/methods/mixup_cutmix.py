"""Views that mix several images: mixup and CutMix by torchvision, CutMixPick, and consistent mixup."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from experiments.methods.drawn_views import DrawnViews
from hard_aug.evaluation.network_evaluations import FORWARD, TWO_VIEWS
from hard_aug.utils.checks import check_fraction, check_positive_number, is_integer


@dataclass(eq=False, kw_only=True)
class Mixed(DrawnViews):
    """Each image is mixed with its neighbour in the shuffled batch, with one coefficient or box for a batch.

    Attributes:
        transform: mixes a batch; `MixUp` (arXiv:1710.09412): `lambda x + (1 - lambda) x'`, `CutMix`
            (arXiv:1905.04899): a box of x' with area `1 - lambda`; `lambda ~ Beta(alpha, alpha)`.
    """

    mixes = True
    transform: v2.Transform

    def __post_init__(self) -> None:
        check_positive_number(**{"method.transform.alpha": self.transform.alpha})  # torch's check may be switched off
        super().__post_init__()

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        # torchvision also requires labels to mix; here the teacher predicts on the mixed image itself.
        return self.transform(images, images.new_zeros(len(images), 1))[0]


@dataclass(eq=False, kw_only=True)
class CutMixPick(Mixed):
    """Mixed views with the highest entropy of the teacher's prediction (Wang et al., NeurIPS 2022, arXiv:2012.02909).

    The B most uncertain images out of `candidates` mixed batches, 2 or more, form the second view. The teacher's
    forward passes on all candidates are included in the network evaluations.
    """

    candidates: int = 2

    def __post_init__(self) -> None:
        if not (is_integer(self.candidates) and self.candidates >= 2):
            raise ValueError(f"candidates={self.candidates}: expected an integer >= 2; for one use method=cutmix")
        super().__post_init__()
        self.network_evaluations = TWO_VIEWS + self.candidates * FORWARD

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        batches = [super(CutMixPick, self).draw(images) for _ in range(self.candidates)]
        logits = torch.cat([self.teacher(batch) for batch in batches])
        entropy = torch.special.entr(logits.softmax(1)).sum(1)
        return torch.cat(batches)[entropy.topk(len(images)).indices]


@dataclass(eq=False, kw_only=True)
class ConsistentMixup(DrawnViews):
    """Mixup `lambda x + (1 - lambda) x'` for both views, with `lambda ~ U[0, 1]` drawn for each image.

    After Beyer et al., "A good teacher is patient and consistent" (arXiv:2106.05237): both networks see exactly the
    same mixed views, and no clean images. The paper's third ingredient, patience, is the number of steps.

    Attributes:
        crop: smallest fraction of the image's area that a random crop, resized to the image's size, keeps, in (0, 1];
            as in Inception the fraction is uniform and the aspect ratio is 3/4 to 4/3. None: no crops.
    """

    mixes = True
    crop: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None:
            check_fraction(crop=self.crop)

    def first_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.first_view`; a mixed view here too."""
        return self.second_view(images, labels)

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        if self.crop is not None:
            crop = v2.RandomResizedCrop(tuple(images.shape[-2:]), scale=(self.crop, 1.0))
            images = torch.stack([crop(image) for image in images])
        partners = images[torch.randperm(len(images)).to(images.device)]
        return torch.lerp(partners, images, torch.rand(len(images), 1, 1, 1).to(images))
