"""ImageSearch: base class of the methods that find hard images with a diffusion model, and of their baselines."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hard_aug.generative.diffusion_model import DiffusionModel
from hard_aug.generative.nfe import NFE
from hard_aug.generative.noise import derive_seed, noise_from_seeds
from hard_aug.generative.sampler import DiffusionSampler
from hard_aug.objectives import Reference
from hard_aug.synthesis.score import Score, check_finite, check_scores
from hard_aug.utils.checks import check_images, check_kinds, check_labels
from hard_aug.utils.settings_repr import SettingsRepr


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult:
    """Result of an `ImageSearch`.

    Attributes:
        images: `(B, C, H, W)` float32 in [0, 1], not rounded.
        scores_before: `(B,)`, scores of the images that the method starts from: the unguided samples of the same seeds.
        scores_after: `(B,)`, scores of `images`.
        nfe: number of function evaluations, without those that only `scores_before` needs.
        seconds: wall-clock time, including `scores_before`.

    Example:
        >>> scores = torch.zeros(2)
        >>> found = SearchResult(torch.rand(2, 1, 8, 8), scores, scores + 1, NFE(denoiser_forward=20), seconds=0.1)
        >>> found.nfe.total, found.scores_after - found.scores_before
        (20, tensor([1., 1.]))
    """

    images: Tensor
    scores_before: Tensor
    scores_after: Tensor
    nfe: NFE
    seconds: float

    def __repr__(self) -> str:
        return f"SearchResult({describe_images(self.images, self.scores_before, self.scores_after)}, nfe={self.nfe})"


def describe_images(images: Tensor, scores_before: Tensor, scores_after: Tensor) -> str:
    """Describe images and mean scores in a few words, for `repr`.

    Args:
        images: `(B, C, H, W)`.
        scores_before: `(B,)`.
        scores_after: `(B,)`.
    """
    scores = f"mean score {float(scores_before.mean()):.4g} -> {float(scores_after.mean()):.4g}"
    return f"{len(images)} images {tuple(images.shape[1:])} {images.dtype}, {scores}"


@dataclass(slots=True)
class SearchInputs:
    """Checked inputs of one search, with the noise of each image.

    Attributes:
        labels: `(B,)`, classes that the denoiser is conditioned on.
        images: `(B, C, H, W)`, real images to start from; None: start from noise.
        clean: scaled latents of the real images `(B, c, h, w)`; None: start from noise.
        noise: `(1 + steps, B, c, h, w)` if the sampler is stochastic, else `(1, B, c, h, w)`; the first is the noise
            that sampling starts with.
        reference: predictions that the score compares with.
        generators: generators of each image's random augmentation.

    Example:
        >>> inputs = SearchInputs(
        ...     labels=torch.tensor([0, 2, 1]),
        ...     images=None,
        ...     clean=None,
        ...     noise=torch.randn(1, 3, 4, 8, 8),
        ...     reference=Reference(torch.zeros(3, 10)),
        ...     generators=[torch.Generator() for _ in range(3)],
        ... )
        >>> part = inputs.select(torch.tensor([2, 0]))
        >>> part.labels, part.noise.shape
        (tensor([1, 0]), torch.Size([1, 2, 4, 8, 8]))
    """

    labels: Tensor
    images: Tensor | None
    clean: Tensor | None
    noise: Tensor
    reference: Reference
    generators: list[torch.Generator]

    def select(self, rows: Tensor) -> SearchInputs:
        """Return the inputs of some images, by index."""
        reference = self.reference
        return SearchInputs(
            self.labels[rows],
            None if self.images is None else self.images[rows],
            None if self.clean is None else self.clean[rows],
            self.noise[:, rows],
            Reference(
                reference.teacher_logits[rows],
                None if reference.student_logits is None else reference.student_logits[rows],
                None if reference.labels is None else reference.labels[rows],
            ),
            [self.generators[int(row)] for row in rows],
        )


class ImageSearch(SettingsRepr, ABC):
    """A method that finds hard images; each result depends on its own seed, label and image alone.

    Args:
        sampler: sampler of the diffusion model.

    Example:
        >>> import diffusers
        >>> from torch import nn
        >>> class Antithetic(ImageSearch):
        ...     def solve(self, score, inputs):
        ...         before, excluded = self.score_unguided(score, inputs)
        ...         return self.sample_unguided(inputs, noise=-inputs.noise), before, excluded
        >>> unet = diffusers.UNet2DModel(
        ...     sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,) * 4, norm_num_groups=8
        ... )
        >>> search = Antithetic(DiffusionSampler(DiffusionModel(unet, diffusers.DDIMScheduler()), steps=2))
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> score = Score(teacher=teacher, student=student)
        >>> search(score, torch.tensor([0, 2]), seeds=torch.arange(2), classes=3).images.shape
        torch.Size([2, 1, 8, 8])
    """

    #: Whether the method uses latents of the real images.
    encodes_images: bool = True

    def __init__(self, sampler: DiffusionSampler) -> None:
        check_kinds(sampler=(sampler, DiffusionSampler))
        self.sampler = sampler

    @property
    def model(self) -> DiffusionModel:
        """The sampler's diffusion model."""
        return self.sampler.model

    def __call__(
        self, score: Score, labels: Tensor, *, seeds: Tensor, images: Tensor | None = None, classes: int | None = None
    ) -> SearchResult:
        """Find one hard image for each seed.

        Args:
            score: the score to maximise.
            labels: `(B,)` integers, the class that each image shows.
            seeds: `(B,)` integers >= 0, one for all randomness of each image.
            images: `(B, C, H, W)` in [0, 1], real images to start from; None: start from noise.
            classes: number of classes K; None: that of the denoiser. Required if the denoiser is unconditional and
                there are no images.

        Raises:
            TypeError: an input has the wrong type.
            ValueError: shapes or values are wrong, labels are out of range, or the sampler starts from images and there
                are none.
            FloatingPointError: images are not finite, as with a network that overflows in float16, or scores are NaN.
            RuntimeError: under `torch.inference_mode()`.
        """
        started = time.perf_counter()
        if labels is None:
            raise ValueError(
                "labels: expected (B,) integers, got None; if neither the denoiser nor the score uses labels: zeros"
            )
        check_labels(labels, batch=len(seeds))
        if torch.is_inference_mode_enabled():
            raise RuntimeError("a search needs gradients: call it under torch.no_grad() or no context at all")
        self._check_label_values(labels)
        if images is not None:
            check_images(images)
            if len(images) != len(seeds):
                raise ValueError(f"{len(images)} images and {len(seeds)} seeds: expected one seed for each image")
        device = self.model.device
        labels = labels.to(device).long()
        if not len(seeds):  # not every layer accepts empty batches
            return self._empty_result(images, started)
        before = self._total_nfe(score)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            inputs = self._prepare(score, labels, seeds, None if images is None else images.to(device).float(), classes)
        with torch.autocast(device.type, enabled=False):
            found, scores_before, excluded = self.solve(score, inputs)
            check_finite(found)
            scores_after = score.evaluate(found, inputs.reference)
            check_scores(scores_after)
        nfe = self._total_nfe(score) - before - excluded
        return SearchResult(found, scores_before, scores_after, nfe, time.perf_counter() - started)

    def _check_label_values(self, labels: Tensor) -> None:
        classes = getattr(self.model.condition, "classes", None)
        if classes is not None and len(labels):
            low, high = int(labels.min()), int(labels.max())
            if not 0 <= low <= high < classes:
                raise ValueError(
                    f"labels from {low} to {high}: expected 0 to {classes - 1}, the classes of the denoiser"
                )

    @abstractmethod
    def solve(self, score: Score, inputs: SearchInputs) -> tuple[Tensor, Tensor, NFE]:
        """Run the search.

        Args:
            score: the score to maximise.
            inputs: checked inputs, at least one image.

        Returns:
            Images `(B, C, H, W)`, scores before the search `(B,)`, and the evaluations that only these scores needed.
        """

    def _empty_result(self, images: Tensor | None, started: float) -> SearchResult:
        codec = self.model.codec
        channels = int(self.model.config.in_channels) if codec is None else codec.channels
        size = self.model.image_size() if images is None else images.shape[-2:]
        scores = torch.zeros(0, dtype=torch.float32, device=self.model.device)
        found = scores.view(0, 1, 1, 1).expand(0, channels, *size)
        return SearchResult(found, scores, scores, NFE(), time.perf_counter() - started)

    def _prepare(
        self, score: Score, labels: Tensor, seeds: Tensor, images: Tensor | None, classes: int | None
    ) -> SearchInputs:
        model = self.model
        size = model.image_size() if images is None else (images.shape[-2], images.shape[-1])
        if classes is None:
            classes = getattr(model.condition, "classes", None)
        shape = model.latent_shape(*size)
        count = 1 + (len(self.sampler) if self.sampler.eta else 0)
        noise = noise_from_seeds(seeds, (count, *shape), model.device).movedim(1, 0)
        clean = None if images is None or not self.encodes_images else model.encode(images)
        generators = [torch.Generator().manual_seed(derive_seed(int(seed), 1)) for seed in seeds]
        reference = score.reference(images, labels, classes=classes)
        return SearchInputs(labels, images, clean, noise, reference, generators)

    @torch.no_grad()
    def sample_unguided(self, inputs: SearchInputs, *, noise: Tensor | None = None) -> Tensor:
        """Sample images `(B, C, H, W)` without a search.

        Args:
            inputs: labels, and latents to start from.
            noise: noise of the shape of `inputs.noise`; None: that of the inputs.
        """
        noise = inputs.noise if noise is None else noise
        start = self.sampler.start(noise[0], inputs.clean)
        return self.model.decode(self.sampler.run(start, inputs.labels, step_noise=noise[1:]))

    def score_unguided(self, score: Score, inputs: SearchInputs) -> tuple[Tensor, NFE]:
        """Return the scores of the unguided images, and the evaluations spent, which are not part of the method.

        Args:
            score: the score.
            inputs: inputs of the search.
        """
        before = self._total_nfe(score)
        scores = score.evaluate(self.sample_unguided(inputs), inputs.reference)
        return scores, self._total_nfe(score) - before

    def _total_nfe(self, score: Score) -> NFE:
        return self.model.nfe + score.nfe
