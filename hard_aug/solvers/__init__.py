"""Guided sampling and noise optimisation: hard images from generative models, ConfiG-style (arXiv:2506.02294)."""

from hard_aug.solvers.acceptance import Acceptance, Verdict, to_bytes
from hard_aug.solvers.base import Found, Solver
from hard_aug.solvers.chain import Chain
from hard_aug.solvers.conditions import ClassEmbeddings, ClassLabels, Condition, Unconditional
from hard_aug.solvers.controls import BestOfN, PixelPGD, Unguided
from hard_aug.solvers.counts import Evaluations
from hard_aug.solvers.detectors import detect
from hard_aug.solvers.diffuser import Diffuser
from hard_aug.solvers.guidance import GuidedSampler
from hard_aug.solvers.noise import NoiseOptimizer
from hard_aug.solvers.score import Cutouts, Score
from hard_aug.solvers.synthesis import SynthBatch, synthesize

__all__ = [
    "Acceptance",
    "BestOfN",
    "Chain",
    "ClassEmbeddings",
    "ClassLabels",
    "Condition",
    "Cutouts",
    "Diffuser",
    "Evaluations",
    "Found",
    "GuidedSampler",
    "NoiseOptimizer",
    "PixelPGD",
    "Score",
    "Solver",
    "SynthBatch",
    "Unconditional",
    "Unguided",
    "Verdict",
    "detect",
    "synthesize",
    "to_bytes",
]
