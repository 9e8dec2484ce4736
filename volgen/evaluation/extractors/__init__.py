"""What is kept of a volume so that cohorts can be compared: a file is a kind."""
