"""Policies: where the parameters of a transform come from, and what of that is learned."""

from hard_aug.policies.base import Policy
from hard_aug.policies.conditional import Conditional
from hard_aug.policies.gaussian import Gaussian
from hard_aug.policies.generator import Generator
from hard_aug.policies.group_bandit import GroupBandit
from hard_aug.policies.search import Search
from hard_aug.policies.uniform import Uniform

__all__ = ["Conditional", "Gaussian", "Generator", "GroupBandit", "Policy", "Search", "Uniform"]
