"""Kinds of private training, and training without privacy: ``privacy.kind`` of a configuration."""
