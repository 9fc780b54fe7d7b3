"""The configuration of a run: checks, identity, trials, error messages."""
