"""PatchMix: each patch of an image is replaced by, or blended with, that of a partner image; which ones is learned.

After CutMix (Yun et al., arXiv:1905.04899), with a weight for each patch in place of one rectangle. With the decoded
weight `w` in [0, 1) of a patch and `k = 1 / temperature`, the mask is

    m = w^k / (w^k + (1 - w)^k) = sigmoid(k logit(w)),

a relaxed Bernoulli variable (Maddison et al., arXiv:1611.00712) whose randomness is that of `u`. "relaxed" blends by m;
"straight_through" takes the partner's patch where `w > 1/2`, with the gradient of m (Bengio et al., arXiv:1308.3432).

| parameter | unit |
|---|---|
| mask_r_c | weight of the partner in the patch in row r, column c |
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hard_aug.ops.divergence.reference import log_add
from hard_aug.transforms.argument_checks import check_pair
from hard_aug.transforms.base import Transform
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import check_fraction

MixMode = Literal["relaxed", "straight_through"]
#: Clamp of the area fractions, which keeps their logarithms finite.
MIN_AREA = 1e-6
#: Clamp of the weights, which keeps their logits finite.
MIN_WEIGHT = 1e-6
#: Initial standard deviation of `u`. With the usual 0.3 only one patch in forty would be the partner's.
START = 0.7


class PatchMix(Transform):
    """Mix each image with a partner image, patch by patch. `u = 0` is the identity.

    The reference of the teacher's prediction is the mean of its probabilities for both images, weighted by area;
    `HardBatch.teacher_consistent` compares with that too. As the teacher's own prediction on a mix is a valid target,
    the penalty is best left out, `invariance=Penalty(0)`.
    Gradients: images yes, partner images yes, parameters yes, second order no.

    Args:
        image_size: Height and width of the images, pixels; one number for squares.
        patch_size: Height and width of the patches; divides `image_size`.
        mode: "straight_through" for whole patches, "relaxed" for blends.
        temperature: In (0, 1]; a lower value moves a blend closer to one of the two images.

    Raises:
        ValueError: If the patch size does not divide the image size, the mode is unknown, or the temperature is outside
            (0, 1]; at a call, if images have another size or the context has no partners.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import PatchMix, make_context
        >>> transform = PatchMix(image_size=8, patch_size=4)
        >>> transform.size
        4
        >>> images = torch.rand(2, 3, 8, 8)
        >>> context = make_context(transform, images, generator=torch.Generator().manual_seed(0))
        >>> transform(images, torch.randn(2, transform.size), context).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        mode: MixMode = "straight_through",
        temperature: float = 0.5,
    ) -> None:
        self.image_size, self.patch_size = check_pair(image_size=image_size), check_pair(patch_size=patch_size)
        for length, patch in zip(self.image_size, self.patch_size, strict=True):
            if length % patch:
                divisors = [d for d in range(1, length + 1) if length % d == 0]
                raise ValueError(
                    f"patch_size={patch} does not divide image_size={length}; expected one of "
                    f"{', '.join(map(str, divisors))}"
                )
        if mode not in get_args(MixMode):
            raise ValueError(f"mode={mode!r}: expected one of {', '.join(get_args(MixMode))}")
        check_fraction(temperature=temperature)
        self.mode, self.temperature = mode, float(temperature)
        rows, columns = (n // p for n, p in zip(self.image_size, self.patch_size, strict=True))
        self.grid = (rows, columns)
        self.spec = tuple(
            Parameter(
                f"mask_{row}_{column}",
                0.0,
                1.0,
                0.0,
                "weight of the partner",
                block="mask",
                group="mask",
                one_sided=True,
                start=START,
            )
            for row in range(rows)
            for column in range(columns)
        )

    @property
    def bounded(self) -> bool:
        """See `Transform.bounded`."""
        return True

    @property
    def requires_partner(self) -> bool:
        """See `Transform.requires_partner`."""
        return True

    def mask(self, u: Tensor) -> Tensor:
        """Return the weight of the partner in each patch, `(B, rows, columns)`, for `u`, `(B, P)`."""
        weight = torch.stack(tuple(self.decode(u).values()), dim=1).view(-1, *self.grid)
        soft = (torch.logit(weight, eps=MIN_WEIGHT) / self.temperature).sigmoid()
        return soft if self.mode == "relaxed" else soft + ((weight > 0.5).to(soft.dtype) - soft).detach()

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                f"PatchMix expected images of {self.image_size[0]} x {self.image_size[1]} pixels, got "
                f"{images.shape[-2]} x {images.shape[-1]}; use PatchMix(image_size={tuple(images.shape[-2:])}, ...)"
            )
        if context.partner_images is None:
            raise ValueError(
                "PatchMix requires partner images: HardAugmenter provides them; otherwise pass "
                "Context(partner_images=images[torch.randperm(len(images))])"
            )
        mask = self.mask(u)
        for axis, patch in zip((1, 2), self.patch_size, strict=True):
            mask = mask.repeat_interleave(patch, dim=axis)
        return torch.lerp(images, context.partner_images.to(images.dtype), mask[:, None].to(images.dtype))

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        """Return the logarithm of the mean probabilities of both images by area, `(B, K)`, at least float32.

        Args:
            logits: The teacher's logits on the clean images, `(B, K)`.
            u: Parameters, `(B, P)`.
            context: Context with `partner_logits`.
        """
        if context.partner_logits is None:
            raise ValueError("PatchMix requires the teacher's logits on the partners: Context(partner_logits=...)")
        compute = torch.promote_types(logits.dtype, torch.float32)
        area = self.mask(u).mean((1, 2)).to(compute).clamp(MIN_AREA, 1 - MIN_AREA)[:, None]
        image, partner = (given.to(compute).log_softmax(-1) for given in (logits, context.partner_logits))
        return log_add(image + torch.log1p(-area), partner + area.log())
