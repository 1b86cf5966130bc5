"""The commands. Each is one file, or one folder with its entry point in command.py."""
