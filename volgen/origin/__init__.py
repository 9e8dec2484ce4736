"""What a run begins from: nothing, or what was trained before."""
