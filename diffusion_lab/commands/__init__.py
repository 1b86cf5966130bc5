"""The commands of scripts/: one module each, or one package with its entry point in command.py."""
