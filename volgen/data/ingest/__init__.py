"""From a folder of images to the scans of a store: which of them are scans, whose they are, and how they are resampled."""
