"""Choices of the weights that are trained: ``adapter.kind`` of a configuration."""
