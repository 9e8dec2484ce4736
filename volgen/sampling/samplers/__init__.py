"""Solvers: ``sampler.kind`` of a configuration."""
