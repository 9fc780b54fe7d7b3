"""Data: loading, training batches, out-of-domain test sets."""

from experiments.data.batches import Batches, BatchSource
from experiments.data.sources import load

__all__ = ["BatchSource", "Batches", "load"]
