"""Preconditioners, which scale what a network sees and says: ``preconditioner.kind`` of a configuration."""
