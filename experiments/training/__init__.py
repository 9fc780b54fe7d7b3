"""The training loop, and what it needs: checkpoints, processes, curves, progress."""
