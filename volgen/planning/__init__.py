"""What a run will take, known before it starts: memory, checkpoints on disk, patients of a private step."""
