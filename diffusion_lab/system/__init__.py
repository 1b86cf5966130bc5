"""Files, locks, signals, devices, memory and Lightning's private parts."""
