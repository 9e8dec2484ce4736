"""What segments a volume: a file is a kind."""
