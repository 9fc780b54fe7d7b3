"""Configurations of the Hydra application, by group."""
