"""Train and score a ladder: configurations that each add one change to the previous one."""
