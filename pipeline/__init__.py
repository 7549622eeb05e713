"""Images and prompts to latents and back, in plain torch: no nodes, no ComfyUI."""
