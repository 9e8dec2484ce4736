"""Grids of noise levels: ``schedule.kind`` of a configuration."""
