"""The training loop and what belongs to it: draws, averaged weights, stopping, checkpoints, metrics."""
