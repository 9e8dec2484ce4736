"""Which expert owns which noise levels, and a bank of experts as one denoiser."""
