"""The experiments: what distillation transfers, with and without hard augmentations (`python -m experiments.train`)."""

from experiments import resolvers as resolvers  # registers the resolvers that the configurations use
