"""A learned policy by itself: an augmentation for other trainings, which needs neither teacher nor student.

What was learned against one student is a distribution of augmentations under which the teacher keeps its answer. It can
go into a data pipeline as `RandAugment` would, after `ToImage` and before a normalisation:

```python
augmentation = augmenter.export(share=0.5)
pipeline = v2.Compose([v2.ToImage(), v2.Resize(224), augmentation, v2.ToDtype(torch.float32, scale=True)])
torch.save(augmentation, "augmentation.pt")  # torch.load(..., weights_only=False) wants hard_aug and no more
```
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug import draws
from hard_aug.checks import check_kinds, images_in_range, raise_for_values
from hard_aug.policies import Policy, Search
from hard_aug.spread import LARGEST_SHARE
from hard_aug.transforms import Context, Transform


class LearnedAugmentation(nn.Module):
    """Draws from a frozen policy and transforms; see `HardAugmenter.export`, which makes it.

    Args:
        transform: what is done to an image. It is shared, not copied, and networks inside it (of a generative
            transform) stay where they are: `to(device)` moves the policy alone.
        policy: where its parameters come from; a frozen copy of it is kept, on the CPU.
        uniform_share: of the draws that are uniform in the transform's ranges, in [0, 0.95].
        share: the probability that an image is changed, each by itself, in (0, 1].

    Draws come from torch's global CPU generator (on other devices, from one that is seeded by it), so that
    `torch.manual_seed` repeats them and each worker of a `DataLoader` has its own; or from `forward(generator=...)`.
    It does the same in training and in evaluation mode.

    Raises:
        TypeError, ValueError: parts of other kinds, shares out of range, a policy of another transform, a `Search`,
            whose choice among draws takes a teacher and a student, or a transform that wants labels.
    """

    uniform_share: Tensor

    def __init__(self, transform: Transform, policy: Policy, *, uniform_share: float = 0.0, share: float = 1.0) -> None:
        super().__init__()
        check_kinds(transform=(transform, Transform), policy=(policy, Policy))
        if isinstance(policy, Search):
            instead = (
                "Search(draws=None) learns nothing: use Gaussian, Generator or Conditional as the policy"
                if policy.draws is None
                else "what its draws' policy has learned can go alone: "
                "LearnedAugmentation(augmenter.transform, augmenter.policy.draws)"
            )
            raise ValueError(
                "a Search can't be exported: it takes the best of several draws by teacher's and student's scores, and "
                f"both stay behind; {instead}"
            )
        if policy.size != transform.size:
            raise ValueError(f"the policy has {policy.size} parameters, the transform {transform.size}")
        if transform.wants_labels:
            raise ValueError(
                f"{type(transform).__name__} wants the class of each image, which a pipeline does not hand on; use a "
                "model without a condition"
            )
        if not 0 <= uniform_share <= LARGEST_SHARE:
            raise ValueError(f"uniform_share={uniform_share}: wanted a share of draws in [0, {LARGEST_SHARE}]")
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: wanted the probability of a change, in (0, 1]")
        self.transform, self.share = transform, share
        self.policy = copy.deepcopy(policy).cpu().eval().requires_grad_(False)
        self.register_buffer("uniform_share", torch.tensor(float(uniform_share)))

    @torch.no_grad()
    def propose(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `u`, `(B, P)`, for images `(B, C, H, W)` in [0, 1]; `transform.decode(u)` gives physical values.

        From equal generators it is what `HardAugmenter.propose` draws.
        """
        generator = _global_generator(images.device) if generator is None else generator
        with torch.autocast(images.device.type, enabled=False):
            u = self.policy.propose(images, generator)
        if not self.uniform_share.is_cuda and not self.uniform_share:  # on a GPU, to ask would be to wait
            return u
        uniform = draws.normal(tuple(u.shape), generator)
        own = draws.uniform(len(u), generator) >= self.uniform_share
        return torch.where(own[:, None], u, uniform)

    def forward(self, images: Tensor, *others: Any, generator: torch.Generator | None = None) -> Any:
        """Augmented images of the type, dtype and shape of `images`.

        Args:
            images: `(C, H, W)` or `(B, C, H, W)`, floating point in [0, 1] or uint8; a `tv_tensors.Image` stays one.
            others: what travels with them in a pipeline, such as a label; handed back as it is, in a tuple.
            generator: of the draws, on the images' device.

        Raises:
            TypeError: no tensor, other integers, or boxes, masks and points, which would not move along.
            ValueError: values outside [0, 1] (looked at on the CPU only), or a mix of images that gets one alone
                or a label beside it.

        Gradients: images yes (of uint8 none), second order no.
        """
        _check(images, others, device=self.uniform_share.device)
        batch = _plain(images if images.ndim == 4 else images[None])
        if self.transform.wants_partner and images.ndim == 3:
            raise ValueError(
                "this augmentation mixes images with others of their batch, and got a single one; apply it to batches "
                "(B, C, H, W), after the loader or in its collate_fn"
            )
        if self.transform.wants_partner and others:
            raise ValueError(
                "this augmentation mixes images of different classes, so what travels with them would be wrong; give "
                "it the images alone, and ask a teacher about the mixes"
            )
        augmented = _of_dtype(self._augmented(_floating(batch), generator), images.dtype)
        augmented = _like(augmented if images.ndim == 4 else augmented[0], images)
        return (augmented, *others) if others else augmented

    def _augmented(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """`images`, `(B, C, H, W)` floating point, each changed with probability `share`."""
        if images.numel() == 0:
            return images
        if not images.is_cuda and not bool(images_in_range(images)):
            raise_for_values(images)
        generator = _global_generator(images.device) if generator is None else generator
        chosen = None
        if self.share < 1:
            chosen = draws.uniform(len(images), generator) < self.share
            if not chosen.is_cuda and not bool(chosen.any()):
                return images
        u = self.propose(images, generator=generator)
        partner = noise = None
        if self.transform.wants_partner:
            partner = images[draws.partners(len(images), generator)]
        if self.transform.wants_noise:
            noise = draws.normal(tuple(images.shape), generator).to(images.dtype)
        augmented = self.transform.render(images, u, Context(partner_images=partner, noise=noise))
        return augmented if chosen is None else torch.where(chosen[:, None, None, None], augmented, images)

    def extra_repr(self) -> str:
        names = ", ".join(parameter.name for parameter in self.transform.spec[:8])
        more = ", ..." if self.transform.size > 8 else ""
        return (
            f"transform={type(self.transform).__name__}({names}{more}), uniform_share={float(self.uniform_share):.3g}, "
            f"share={self.share:g}"
        )


def _global_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


def _check(images: object, others: tuple[Any, ...], *, device: torch.device) -> None:
    kinds = _tv_tensors()
    for value in () if kinds is None else (images, *others):
        if isinstance(value, kinds.TVTensor) and (value is not images or not isinstance(value, kinds.Image)):
            raise TypeError(
                f"got a {type(value).__name__}, which would not move along with the image; this augmentation is for "
                "images and their classes"
            )
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images: wanted a tensor, got {type(images).__name__}; put v2.ToImage() before it, and give it images "
            "rather than dictionaries or lists that hold them"
        )
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"images are {images.dtype}: wanted floating point in [0, 1], or uint8")
    if images.ndim not in (3, 4):
        raise ValueError(f"images: wanted shape (C, H, W) or (B, C, H, W), got {tuple(images.shape)}")
    if images.device.type != device.type:
        raise ValueError(f"images are on {images.device} and the policy on {device}; use .to('{images.device}')")


def _tv_tensors() -> Any:
    """torchvision's, if it is in use at all: without it there are none of its tensors."""
    return sys.modules.get("torchvision.tv_tensors")


def _plain(images: Tensor) -> Tensor:
    return images if type(images) is Tensor else images.as_subclass(Tensor)


def _like(augmented: Tensor, images: Tensor) -> Tensor:
    kinds = _tv_tensors()
    return kinds.wrap(augmented, like=images) if kinds is not None and isinstance(images, kinds.Image) else augmented


def _floating(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _of_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype) if dtype.is_floating_point else (255 * images).round().to(dtype)
