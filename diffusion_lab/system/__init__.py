"""Access to the system: files, locks, signals, devices, memory; and private parts of Lightning."""
