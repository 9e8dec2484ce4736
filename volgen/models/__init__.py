"""Denoisers: networks, what surrounds them, and how volumes are put together from what they denoise."""
