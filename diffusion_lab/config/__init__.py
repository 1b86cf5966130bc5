"""The configuration: compose, check and build it."""
