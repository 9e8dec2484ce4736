"""Volumes with their geometry and intensity, and the image files they come from."""
