"""Hard images from generative models by guided sampling or noise optimisation, ConfiG-style (arXiv:2506.02294)."""

from hard_aug.synthesis.acceptance import Acceptance, AcceptanceResult, to_bytes
from hard_aug.synthesis.base import ImageSearch, SearchInputs, SearchResult
from hard_aug.synthesis.baselines import BestOfN, PixelPGD, Unguided
from hard_aug.synthesis.failure_metrics import failure_metrics
from hard_aug.synthesis.guided_sampler import GuidedSampler
from hard_aug.synthesis.noise_optimizer import NoiseOptimizer
from hard_aug.synthesis.pipeline import SynthesisBatch, synthesize
from hard_aug.synthesis.random_crops import RandomCrops
from hard_aug.synthesis.score import Score

__all__ = [
    "Acceptance",
    "AcceptanceResult",
    "BestOfN",
    "GuidedSampler",
    "ImageSearch",
    "NoiseOptimizer",
    "PixelPGD",
    "RandomCrops",
    "Score",
    "SearchInputs",
    "SearchResult",
    "SynthesisBatch",
    "Unguided",
    "failure_metrics",
    "synthesize",
    "to_bytes",
]
