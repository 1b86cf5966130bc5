"""The configuration: compose it, validate it, build its objects."""
