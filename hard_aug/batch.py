"""HardBatch: the result of a call of the augmenter."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from hard_aug.losses.two_view import LossAndLogits, LossObserver, TwoViewLoss
from hard_aug.models.normalized import Normalization
from hard_aug.objectives import Disagreement, Reference
from hard_aug.ops.backend import use_backend
from hard_aug.transforms import Context, Parameter, Transform
from hard_aug.utils.copying import HoldsNetworks


class HardBatch(HoldsNetworks):
    """Hard images, with what is known of them; made by `HardAugmenter`. A deep copy has a copy of the student.

    Args:
        images: see Attributes; so are the others.
        clean_images: the input.
        num_hard: number of hard images.
        u: parameters of the transform.
        context: noise and partners of the transform.
        teacher_logits: on `images`.
        clean_teacher_logits: on `clean_images`.
        reference: what the teacher's prediction is compared with.
        transform: decodes `u`.
        objective: computes `disagreement`.
        two_view_loss: computes `loss`.
        observer: called with each loss, see `LossObserver`.
        normalization: of the loader; None: it does not normalise.

    Attributes:
        images: `(B, C, H, W)` in [0, 1], detached, with the device, dtype and memory format of the input.
        clean_images: the input, detached, in [0, 1].
        num_hard: how many images, the first ones, are hard; the others are the clean ones. It is B, unless the
            augmenter has a `hard_fraction`, or is still in its warm-up.
        u: `(B, P)` float32, the transform's parameters; 0, the identity, for clean images.
        context: partners of a mix and noise, for the hard images: with them,
            `transform(clean_images[:num_hard], u[:num_hard], context)` reproduces the images, before the clamp.
        teacher_logits: `(B, K)` on `images`, detached.
        clean_teacher_logits: `(B, K)` on `clean_images`, detached.
        reference_logits: `(B, K)`, what the teacher's prediction is compared with: that on the clean image, or for
            a mix the mean of both predictions weighted by area.
        normalization: of the loader, and of a student that does not normalise by itself; None: there is none.

    Example:
        >>> from torch import nn
        >>> from hard_aug import Affine, HardAugmenter
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(torch.rand(4, 1, 8, 8))
        >>> hard
        HardBatch(4 hard of 4 images (1, 8, 8))
        >>> hard.loss().shape, hard.teacher_logits.shape, hard.params["rotation"].shape
        (torch.Size([]), torch.Size([4, 3]), torch.Size([4]))
    """

    _instead = "copy or save its tensors, such as hard.images and hard.u"

    def __init__(
        self,
        *,
        images: Tensor,
        clean_images: Tensor,
        num_hard: int,
        u: Tensor,
        context: Context,
        teacher_logits: Tensor,
        clean_teacher_logits: Tensor,
        reference: Reference,
        transform: Transform,
        objective: Disagreement,
        two_view_loss: TwoViewLoss,
        observer: LossObserver | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        self.images, self.clean_images, self.num_hard = images, clean_images, num_hard
        self.u, self.context = u, context
        self.teacher_logits, self.clean_teacher_logits = teacher_logits, clean_teacher_logits
        self.reference_logits = reference.teacher_logits
        self._reference = reference
        self._transform, self._objective, self._two_view_loss = transform, objective, two_view_loss
        self._observer, self.normalization = observer, normalization
        self._student_logits: Tensor | None = None
        self._clean_student_logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"HardBatch({self.num_hard} hard of {len(self)} images {tuple(self.images.shape[1:])})"

    @property
    def spec(self) -> tuple[Parameter, ...]:
        """Parameters of the transform, in the order of the columns of `u`."""
        return self._transform.spec

    @cached_property
    def params(self) -> dict[str, Tensor]:
        """Parameters in physical units by name, `(B,)` each."""
        return self._transform.decode(self.u)

    @cached_property
    def teacher_consistent(self) -> Tensor:
        """`(B,)` bool: the teacher's top class is that of the reference, the clean image's."""
        return self.teacher_logits.argmax(1) == self.reference_logits.argmax(1)

    def normalized(self) -> Tensor:
        """Return the hard images as the loader's would be: what a loop of your own feeds to its student.

        Returns:
            `(B, C, H, W)`, detached; `images` themselves for an augmenter without a `normalization`.
        """
        return self.images if self.normalization is None else self.normalization.normalize(self.images)

    @property
    def disagreement(self) -> Tensor:
        """`(B,)`, the objective on `images`, detached.

        After `loss()` it comes from the forward of the loss; before, the student is run once, in evaluation mode.
        """
        if self._student_logits is None:
            self._student_logits = self._two_view_loss.evaluate_student(self.images)
        if self._clean_student_logits is None and self._objective.requires_student_reference:
            self._clean_student_logits = self._two_view_loss.evaluate_student(self.clean_images)
        with use_backend(self._two_view_loss.backend):
            return self._objective(
                teacher_logits=self.teacher_logits,
                student_logits=self._student_logits,
                reference=replace(self._reference, student_logits=self._clean_student_logits),
            )

    def loss(self, *, temperature: float | None = None, clean_weight: float = 0.5) -> Tensor:
        """Compute the distillation loss on both views, `clean_weight KD(clean) + (1 - clean_weight) KD(hard)`.

        It runs the student once, on the concatenation of both views, in the mode that the student is in. The hard view
        is that of the `num_hard` images; without any, as in a warm-up, the loss is KD(clean).

        Args:
            temperature: of the distillation loss; None: the objective's. Another one leaves the objective as it is:
                `HardAugmenter(objective=KL(temperature=...))` sets both.
            clean_weight: in [0, 1].

        Returns:
            A scalar.

        Raises:
            ValueError: a weight outside [0, 1], a temperature that is not positive, or other numbers of classes.
        """
        return self.loss_and_logits(temperature=temperature, clean_weight=clean_weight).loss

    def loss_and_logits(self, *, temperature: float | None = None, clean_weight: float = 0.5) -> LossAndLogits:
        """Compute `loss`, and return it with the student's logits, for another term beside it.

        ```python
        loss, clean_logits, _ = hard.loss_and_logits()
        total = 0.7 * loss + 0.3 * F.cross_entropy(clean_logits, labels)
        ```

        Args:
            temperature: as in `loss`.
            clean_weight: as in `loss`.
        """
        rows = self.num_hard
        result = self._two_view_loss(
            self.clean_images,
            self.images[:rows],
            clean_teacher_logits=self.clean_teacher_logits,
            hard_teacher_logits=self.teacher_logits[:rows],
            temperature=temperature,
            clean_weight=clean_weight,
            observer=self._observer,
        )
        self._student_logits = torch.cat((result.hard_logits, result.clean_logits[rows:])).detach()
        self._clean_student_logits = result.clean_logits.detach()
        return result
