"""Run by test_preview_inside.py in ComfyUI's own Python: previews of latents whose image is known. Prints JSON.

Arguments: ComfyUI's folder, a folder with v2-base.safetensors.
"""

import json

from embedded import node

# isort: split
import latent_preview
import numpy as np
from comfy.cli_args import LatentPreviewMethod, args

args.preview_method = LatentPreviewMethod.Latent2RGB


def error(checkpoint, sample):
    """RMS error, of 255, of ComfyUI's preview against the image that was encoded."""
    model, _, vae, *_ = node("SD2CheckpointLoader", checkpoint)
    image, _ = node("SD2SampleImage", sample)
    latent = model.model.process_latent_in(vae.encode(image))
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    shown = previewer.decode_latent_to_preview(latent)
    (width, height), pixels = shown.size, image[0].numpy()
    factor = len(pixels) // height
    truth = 255 * pixels.reshape(height, factor, width, factor, 3).mean((1, 3))
    return float(np.sqrt(np.square(np.asarray(shown) - truth).mean()))


numbers = {
    "errors": {
        name: error(f"sd2-demo-{name}.safetensors", "beach.png")
        for name in ("base", "v", "inpaint", "depth", "unclip", "x4")
    }
}
model = node("SD2CheckpointLoader", "v2-base.safetensors")[0]
numbers["official"] = model.model.latent_format.latent_rgb_factors[0]
print(json.dumps(numbers))
