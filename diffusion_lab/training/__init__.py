"""Train from a configuration into a run folder; resume and repeat runs."""
