"""Stand-ins for the stock nodes that make, select and mask latents."""

from __future__ import annotations

import torch
from torch import Tensor

from ...pipeline.images import fit_batch
from .schema import Inputs, Latent, pixels


class EmptyLatentImage:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "width": pixels(512, low=16, step=8),
                "height": pixels(512, low=16, step=8),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
            }
        }

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[Latent]:
        return ({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)},)


class SetLatentNoiseMask:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "set_mask"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "mask": ("MASK",)}}

    def set_mask(self, samples: Latent, mask: Tensor) -> tuple[Latent]:
        return ({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])},)


class RepeatLatentBatch:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "repeat"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "amount": ("INT", {"default": 1, "min": 1, "max": 64})}}

    def repeat(self, samples: Latent, amount: int) -> tuple[Latent]:
        """Repeat the batch `amount` times; later copies get new batch indices, so that their noise differs."""
        count = len(samples["samples"])
        repeated = {**samples, "samples": fit_batch(samples["samples"], count * amount)}
        mask = samples.get("noise_mask")
        if mask is not None and len(mask) > 1:
            repeated["noise_mask"] = fit_batch(fit_batch(mask, max(count, len(mask))), max(count, len(mask)) * amount)
        if "batch_index" in samples:
            first = samples["batch_index"]
            span = max(first) - min(first) + 1
            repeated["batch_index"] = [index + copy * span for copy in range(amount) for index in first]
        return (repeated,)


class LatentFromBatch:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "frombatch"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "samples": ("LATENT",),
                "batch_index": ("INT", {"default": 0, "min": 0, "max": 63}),
                "length": ("INT", {"default": 1, "min": 1, "max": 64}),
            }
        }

    def frombatch(self, samples: Latent, batch_index: int, length: int) -> tuple[Latent]:
        """Select `length` items from batch_index on, as many as there are; each keeps its noise."""
        latent = samples["samples"]
        first = min(batch_index, len(latent) - 1)
        chosen = slice(first, first + length)
        selected = {**samples, "samples": latent[chosen]}
        mask = samples.get("noise_mask")
        if mask is not None and len(mask) > 1:
            selected["noise_mask"] = fit_batch(mask, max(len(mask), len(latent)))[chosen]
        selected["batch_index"] = samples.get("batch_index", list(range(len(latent))))[chosen]
        return (selected,)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "EmptyLatentImage": EmptyLatentImage,
    "SetLatentNoiseMask": SetLatentNoiseMask,
    "RepeatLatentBatch": RepeatLatentBatch,
    "LatentFromBatch": LatentFromBatch,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "EmptyLatentImage": "Empty Latent Image",
    "SetLatentNoiseMask": "Set Latent Noise Mask",
    "RepeatLatentBatch": "Repeat Latent Batch",
    "LatentFromBatch": "Latent From Batch",
}
