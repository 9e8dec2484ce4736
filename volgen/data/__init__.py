"""From image files to batches: the store, the stream that reads it, and volumes as BIDS has them."""
