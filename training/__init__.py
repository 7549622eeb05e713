"""Training of the bundled demo checkpoints, from rendered scenes to .safetensors files."""
