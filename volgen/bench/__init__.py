"""Benchmarks, each beside its alternatives: ``volgen bench``."""
