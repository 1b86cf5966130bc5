"""MNIST and the data sets in its format: download, verify and read them."""
