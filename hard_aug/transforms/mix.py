"""PatchMix: each patch of an image, more or less, from a partner image of the batch; which ones is learned.

After CutMix (Yun et al., arXiv:1905.04899), with a weight for each patch in place of one rectangle. With the decoded
weight `w` in [0, 1) of a patch and `k = 1 / temperature`, the mask is

    m = w^k / (w^k + (1 - w)^k) = sigmoid(k logit(w)),

a relaxed Bernoulli variable (Maddison et al., arXiv:1611.00712) whose noise is that of `u`. "relaxed" blends by m;
"straight_through" takes the partner's patch where `w > 1/2`, and the gradient of m (Bengio et al., arXiv:1308.3432).

| parameter | unit |
|---|---|
| mask_r_c | weight of the partner in the patch in row r, column c |
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hard_aug.transforms.base import Context, Parameter, Transform
from hard_aug.transforms.settings import check_pair

MixMode = Literal["relaxed", "straight_through"]
SMALLEST_AREA = 1e-6
#: Weights this close to an end count as it: their logarithm is finite.
END = 1e-6
#: Of the usual 0.3 only one patch in forty would be the partner's.
START = 0.7


class PatchMix(Transform):
    """Mix each image with a partner, patch by patch. `u = 0` is the identity.

    The teacher's answer is compared with the mean of its answers to both images, weighted by area; where it takes
    that for its own, `HardBatch.unchanged` says so too.

    Args:
        image_size: height and width of the images, pixels; one number for squares.
        patch_size: of the patches; divides the former.
        mode: "straight_through" for whole patches, "relaxed" for blends.
        temperature: in (0, 1]; the lower, the closer a blend is to one of the two.

    Raises:
        ValueError: a patch size that does not divide, an unknown mode, a temperature outside (0, 1]; at a call,
            images of another size or without partners.

    Gradients: images yes, partner images yes, parameters yes, second order no.
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
                    f"patch_size={patch} does not divide image_size={length}; wanted one of "
                    f"{', '.join(map(str, divisors))}"
                )
        if mode not in get_args(MixMode):
            raise ValueError(f"mode={mode!r}: wanted one of {', '.join(get_args(MixMode))}")
        if not 0 < temperature <= 1:
            raise ValueError(f"temperature={temperature}: wanted a number in (0, 1]")
        self.mode, self.temperature = mode, temperature
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
                one_sided=True,
                start=START,
            )
            for row in range(rows)
            for column in range(columns)
        )

    @property
    def bounded(self) -> bool:
        return True

    @property
    def wants_partner(self) -> bool:
        return True

    def mask(self, u: Tensor) -> Tensor:
        """`(B, rows, columns)`, the partner's share of each patch."""
        weight = torch.stack(tuple(self.decode(u).values()), dim=1).view(-1, *self.grid)
        soft = (torch.logit(weight, eps=END) / self.temperature).sigmoid()
        if self.mode == "relaxed":
            return soft
        return soft + ((weight > 0.5).to(soft.dtype) - soft).detach()

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                f"PatchMix was made for images of {self.image_size[0]} x {self.image_size[1]}, got "
                f"{images.shape[-2]} x {images.shape[-1]}; use PatchMix(image_size={tuple(images.shape[-2:])}, ...)"
            )
        if context.partner_images is None:
            raise ValueError(
                "PatchMix wants partners: HardAugmenter gives them; elsewhere pass "
                "Context(partner_images=images[torch.randperm(len(images))])"
            )
        mask = self.mask(u)
        for axis, patch in zip((1, 2), self.patch_size, strict=True):
            mask = mask.repeat_interleave(patch, dim=axis)
        return torch.lerp(images, context.partner_images.to(images.dtype), mask[:, None].to(images.dtype))

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        """Log of the mean of both answers' probabilities by area, `(B, K)`, at least float32."""
        if context.partner_logits is None:
            raise ValueError("PatchMix wants the answers to the partners: Context(partner_logits=...)")
        compute = torch.promote_types(logits.dtype, torch.float32)
        area = self.mask(u).mean((1, 2)).to(compute).clamp(SMALLEST_AREA, 1 - SMALLEST_AREA)[:, None]
        own, partner = (answer.to(compute).log_softmax(-1) for answer in (logits, context.partner_logits))
        return torch.logaddexp(own + torch.log1p(-area), partner + area.log())
