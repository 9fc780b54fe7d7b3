"""Where a transform's parameters come from, and what is learned."""

from hard_aug.policies.base import Policy
from hard_aug.policies.gaussian import Gaussian
from hard_aug.policies.generator import Generator

__all__ = ["Gaussian", "Generator", "Policy"]
