"""Compare samplers and numbers of steps: image quality against NFE and time."""
