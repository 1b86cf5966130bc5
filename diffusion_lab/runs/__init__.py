"""A run folder as it lies on the disk: its record, checkpoints and configuration."""
