"""LearnedAugmentation: draws from a frozen policy, and transforms the images of a pipeline."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hard_aug.export import files
from hard_aug.export.inputs import check_inputs, in_range, like
from hard_aug.inner_loop.exploration import MAX_UNIFORM_FRACTION, mix_uniform
from hard_aug.policies import Policy
from hard_aug.transforms import Transform, make_context
from hard_aug.utils import rng
from hard_aug.utils.checks import check_fraction, check_kinds
from hard_aug.utils.float32 import Float32Module


class LearnedAugmentation(Float32Module):
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
                "teacher and student, which stay behind"
                + ("; its proposal can be exported alone: " if hasattr(policy, "proposal") else "")
                + ("LearnedAugmentation(transform, policy.proposal)" if hasattr(policy, "proposal") else "")
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
        self.transform, self.p = transform, float(p)
        self.policy = copy.deepcopy(policy).cpu().eval().requires_grad_(False)
        fraction = torch.tensor(float(uniform_fraction), dtype=torch.float32, device="cpu")
        self.register_buffer("uniform_fraction", fraction)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and numbers to a file, whole or not at all, which `load` reads without pickle.

        Of transforms and policies that are no classes of hard_aug, or have networks, it keeps the name, and `load`
        has to be given them.

        Args:
            path: of the file, safetensors; an existing one is replaced.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        tensors = self.state_dict()
        files.write(Path(path), transform=self.transform, policy=self.policy, p=self.p, tensors=tensors)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, transform: Transform | None = None, policy: Policy | None = None
    ) -> LearnedAugmentation:
        """Read a file that `save` has written; the augmentation is on the CPU and draws as the saved one does.

        Args:
            path: of the file.
            transform: in place of the file's; required if that has networks or is no class of hard_aug.
            policy: in place of the file's, from which it gets its parameters; required if that is no class of hard_aug.

        Raises:
            TypeError: what is given is of the wrong class.
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, of another kind or of a later version, or what is given does not fit it.
        """
        for kind, part in ((Transform, transform), (Policy, policy)):
            if part is not None:
                check_kinds(**{kind.__name__.lower(): (part, kind)})
        stored = files.read(Path(path), transform=transform, policy=policy)
        loaded = cls(stored.transform, stored.policy, p=stored.p)
        try:
            loaded.load_state_dict(stored.tensors)
        except RuntimeError as error:
            raise ValueError(f"{path} was saved with a policy of another shape than that given: {error}") from error
        return loaded

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
            TypeError: no tensor, other integers, or boxes, masks, points and images in `others`, at any depth: they
                would not move with the image.
            ValueError: values outside [0, 1] (checked on the CPU only; the overshoot of a bicubic resize is clamped
                there), images unlike those it was learned on, or a mix that gets a single image or a label beside it.

        Gradients: images yes (of uint8 none), second order no.
        """
        check_inputs(images, others, device=self.uniform_fraction.device)
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
        batch = in_range(batch if batch.is_floating_point() else batch.float() / 255)
        try:
            augmented = self._augmented(batch, generator)
        except ValueError as error:
            # After its semicolon is advice for the settings of a transform or a policy, which are fixed here.
            problem = str(error).partition(";")[0]
            raise ValueError(
                f"images of shape {tuple(images.shape)}: {problem}; this augmentation is for images like those that it "
                "was learned on"
            ) from error
        augmented = _of_dtype(augmented, images.dtype)
        augmented = like(augmented if images.ndim == 4 else augmented[0], images)
        return (augmented, *others) if others else augmented

    def _augmented(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """`images`, `(B, C, H, W)` floating point, each augmented with probability `p`."""
        if images.numel() == 0:
            return images
        self.transform.check_channels(images.shape[1])
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
    if device.type == "cpu":
        return torch.default_generator
    seed = torch.randint(2**62, (), generator=torch.default_generator, device="cpu")
    return torch.Generator(device).manual_seed(int(seed))


def _of_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype) if dtype.is_floating_point else (255 * images).round().to(dtype)
