"""Where a transform's parameters come from, and what is learned."""

from hard_aug.policies.base import Policy
from hard_aug.policies.conditional import Conditional
from hard_aug.policies.gaussian import Gaussian
from hard_aug.policies.generator import Generator
from hard_aug.policies.search import Search

__all__ = ["Conditional", "Gaussian", "Generator", "Policy", "Search"]
