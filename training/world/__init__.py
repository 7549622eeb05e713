"""The renderer of the training scenes, and the scripts that remake bundled images."""
