"""What is measured of images: numpy, torch, scipy and scikit-learn; no Lightning, no Hydra."""
