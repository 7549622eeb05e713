"""SD2 Family: the Stable Diffusion 2 models as ComfyUI nodes, as a Python library and as the `sd2` command.

import sd2_family as sd2
model = sd2.load("512-inpainting-ema.safetensors")
model.inpaint("photo.png", "mask.png", "a red house").image.save("house.png")
"""

from __future__ import annotations

from importlib import import_module

WEB_DIRECTORY = "./web"
_PUBLIC = {  # name -> the module that has it
    "NODE_CLASS_MAPPINGS": ".nodes",
    "NODE_DISPLAY_NAME_MAPPINGS": ".nodes",
    "load": ".backends.local",
    "Result": ".pipeline.stable_diffusion",
    "StableDiffusion": ".pipeline.stable_diffusion",
}


def __getattr__(name: str) -> object:
    """Import at first use: `sd2 --help` does not wait for torch, and pytest may import this file by path."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)
