"""What is asked of two cohorts: a file is a kind, and all of them are asked."""
