"""Where experts begin: ``start.kind`` of a configuration."""
