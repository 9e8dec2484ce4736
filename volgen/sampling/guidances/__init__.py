"""What a solver asks in place of the bare denoiser, so that volumes agree with something."""
