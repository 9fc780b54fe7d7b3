"""LearnedAugmentation: a learned policy as an augmentation for other trainings, without teacher and student.

What was learned against one student is a distribution of augmentations under which the teacher's prediction is
unchanged. It can go into a data pipeline like `RandAugment`, after `ToImage` and before a normalisation:

```python
augmentation = augmenter.export(p=0.5)
pipeline = v2.Compose([v2.ToImage(), v2.Resize(224), augmentation, v2.ToDtype(torch.float32, scale=True)])
torch.save(augmentation, "augmentation.pt")  # torch.load(..., weights_only=False) requires hard_aug only
```
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.inner_loop.exploration import MAX_UNIFORM_FRACTION, mix_uniform
from hard_aug.policies import Policy
from hard_aug.transforms import Transform, make_context
from hard_aug.utils import rng
from hard_aug.utils.checks import check_fraction, check_kinds, images_in_range, raise_for_values


class LearnedAugmentation(nn.Module):
    """Draws from a frozen policy and transforms images; created by `HardAugmenter.export`.

    Draws come from torch's global CPU generator (on other devices, from one that is seeded by it), so that
    `torch.manual_seed` repeats them and each worker of a `DataLoader` has its own; or from `forward(generator=...)`.
    It does the same in training and in evaluation mode.

    Args:
        transform: what is done to an image. It is shared, not copied, and networks inside it (of a generative
            transform) stay where they are: `to(device)` moves the policy alone.
        policy: where its parameters come from; a frozen copy of it is kept, on the CPU.
        uniform_fraction: fraction of the draws that is uniform in the transform's ranges, in [0, 0.95].
        p: probability that an image is augmented, each by itself, in (0, 1].

    Raises:
        TypeError: parts of the wrong class.
        ValueError: fractions out of range, a policy of another transform, a `Search`, whose choice among draws requires
            teacher and student, or a transform that requires labels.

    Example:
        >>> from hard_aug.policies import Uniform
        >>> from hard_aug.transforms import Affine
        >>> augmentation = LearnedAugmentation(Affine(), Uniform(Affine().spec), p=0.5)
        >>> augmentation(torch.rand(3, 32, 32)).shape
        torch.Size([3, 32, 32])
    """

    uniform_fraction: Tensor

    def __init__(self, transform: Transform, policy: Policy, *, uniform_fraction: float = 0.0, p: float = 1.0) -> None:
        super().__init__()
        check_kinds(transform=(transform, Transform), policy=(policy, Policy))
        if policy.is_per_sample:
            raise ValueError(
                f"a {type(policy).__name__} can't be exported: it takes the best of several draws by the scores of "
                "teacher and student, which stay behind; a learned proposal can be exported alone: "
                "LearnedAugmentation(augmenter.transform, augmenter.policy.proposal)"
            )
        policy.check_spec(transform.spec)
        if transform.requires_labels:
            raise ValueError(
                f"{type(transform).__name__} requires the class of each image, which a pipeline does not pass on; use "
                "an unconditional model"
            )
        if not 0 <= uniform_fraction <= MAX_UNIFORM_FRACTION:
            raise ValueError(
                f"uniform_fraction={uniform_fraction}: expected a fraction of draws in [0, {MAX_UNIFORM_FRACTION}]"
            )
        check_fraction(p=p)
        self.transform, self.p = transform, p
        self.policy = copy.deepcopy(policy).cpu().eval().requires_grad_(False)
        self.register_buffer("uniform_fraction", torch.tensor(float(uniform_fraction)))

    @torch.no_grad()
    def sample(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `u`, `(B, P)`; `transform.decode(u)` returns physical values.

        From equal generators it is what `HardAugmenter.sample` draws.

        Args:
            images: `(B, C, H, W)` in [0, 1].
            generator: on the images' device; None: torch's global one.
        """
        generator = _global_generator(images.device) if generator is None else generator
        with torch.autocast(images.device.type, enabled=False):
            return mix_uniform(self.policy.sample(images, generator), self.uniform_fraction, generator).u

    def forward(self, images: Tensor, *others: Any, generator: torch.Generator | None = None) -> Any:
        """Return augmented images of the type, dtype and shape of `images`.

        Args:
            images: `(C, H, W)` or `(B, C, H, W)`, floating point in [0, 1] or uint8; a `tv_tensors.Image` stays one.
            *others: what accompanies them in a pipeline, such as a label; returned as it is, in a tuple.
            generator: of the draws, on the images' device; None: torch's global one.

        Raises:
            TypeError: no tensor, other integers, or boxes, masks and points, which would not move with the image.
            ValueError: values outside [0, 1] (checked on the CPU only), or a mix of images that gets a single one or a
                label beside it.

        Gradients: images yes (of uint8 none), second order no.
        """
        _check(images, others, device=self.uniform_fraction.device)
        batch = images if images.ndim == 4 else images[None]
        batch = batch if type(batch) is Tensor else batch.as_subclass(Tensor)
        if self.transform.requires_partner and images.ndim == 3:
            raise ValueError(
                "this augmentation mixes images with others of their batch, and got a single one; apply it to batches "
                "(B, C, H, W), after the loader or in its collate_fn"
            )
        if self.transform.requires_partner and others:
            raise ValueError(
                "this augmentation mixes images of different classes, so what accompanies them would be wrong; "
                "pass the images alone, and take the teacher's predictions on the mixes"
            )
        batch = batch if batch.is_floating_point() else batch.float() / 255
        augmented = _of_dtype(self._augmented(batch, generator), images.dtype)
        augmented = _like(augmented if images.ndim == 4 else augmented[0], images)
        return (augmented, *others) if others else augmented

    def _augmented(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """`images`, `(B, C, H, W)` floating point, each augmented with probability `p`."""
        if images.numel() == 0:
            return images
        if not images.is_cuda and not bool(images_in_range(images)):
            raise_for_values(images, advice="put the augmentation before v2.Normalize")
        generator = _global_generator(images.device) if generator is None else generator
        chosen = None
        if self.p < 1:
            chosen = rng.rand(len(images), generator) < self.p
            if not chosen.is_cuda and not bool(chosen.any()):
                return images
        u = self.sample(images, generator=generator)
        augmented = self.transform.render(images, u, make_context(self.transform, images, generator=generator))
        return augmented if chosen is None else torch.where(chosen[:, None, None, None], augmented, images)

    def extra_repr(self) -> str:
        """Show the transform's parameters and the fractions."""
        names = ", ".join(parameter.name for parameter in self.transform.spec[:8])
        more = ", ..." if self.transform.size > 8 else ""
        return (
            f"transform={type(self.transform).__name__}({names}{more}), "
            f"uniform_fraction={float(self.uniform_fraction):.3g}, p={self.p:g}"
        )


def _global_generator(device: torch.device) -> torch.Generator:
    on_cpu = device.type == "cpu"
    return torch.default_generator if on_cpu else torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


def _check(images: object, others: tuple[Any, ...], *, device: torch.device) -> None:
    kinds = _tv_tensors()
    for value in () if kinds is None else (images, *others):
        if isinstance(value, kinds.TVTensor) and (value is not images or not isinstance(value, kinds.Image)):
            raise TypeError(
                f"got a {type(value).__name__}, which would not move with the image; this augmentation is for images "
                "and their classes"
            )
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images: expected a tensor, got {type(images).__name__}; put v2.ToImage() before it, and pass images, not "
            "dictionaries or lists of them"
        )
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"images are {images.dtype}: expected floating point in [0, 1], or uint8")
    if images.ndim not in (3, 4):
        raise ValueError(f"images: expected shape (C, H, W) or (B, C, H, W), got {tuple(images.shape)}")
    if images.device.type != device.type:
        raise ValueError(f"images are on {images.device} and the policy on {device}; use .to('{images.device}')")


def _tv_tensors() -> Any:
    """Return torchvision's tensor classes, if it is imported at all: otherwise none of its tensors exist."""
    return sys.modules.get("torchvision.tv_tensors")


def _like(augmented: Tensor, images: Tensor) -> Tensor:
    kinds = _tv_tensors()
    return kinds.wrap(augmented, like=images) if kinds is not None and isinstance(images, kinds.Image) else augmented


def _of_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype) if dtype.is_floating_point else (255 * images).round().to(dtype)
