"""Experiments that reproduce the measurements of the documentation; see `experiments/README.md`."""

import experiments.configuration.resolvers  # noqa: F401 - registers the resolver that the YAML files use
