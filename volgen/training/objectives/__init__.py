"""Losses (``objective.kind``): what a network is trained to make small."""
