"""volgen: train generators of 3D brain MRI and give out volumes that people can use."""

__version__ = "0.1.1"
