"""Benchmarks of hard_aug; each writes JSON and prints a table. See `python -m benchmarks.augment --help`."""
