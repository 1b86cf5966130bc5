"""The commands: each one file, or one folder whose command.py is its entry."""
