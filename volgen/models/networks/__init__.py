"""Networks: ``network.kind`` of a configuration."""
