"""The experiments: what distillation transfers, with and without hard augmentations (`python -m experiments.train`)."""
