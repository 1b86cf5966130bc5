"""Run folders on disk: record, checkpoints and configuration."""
