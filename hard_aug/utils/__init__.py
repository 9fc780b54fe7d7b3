"""Argument checks, random numbers of several processes, process groups, hashes, free disk space."""
