"""Pictures of any kind and size: folders and zip files, decoded once into a cache of uint8."""
