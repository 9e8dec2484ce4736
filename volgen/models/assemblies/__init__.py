"""Ways to put a volume together from pieces: ``assembly.kind`` of a configuration."""
