"""Nodes that condition an unCLIP model on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from ..backends import backend
from ..backends.folders import inside
from ..pipeline.types import Conditioning
from ..pipeline.unclip import LAST_LEVEL, MIX_LEVEL, ImageEmbedding, with_image


def _noise(default: int, tooltip: str) -> tuple[str, dict[str, Any]]:
    return "INT", {"default": default, "min": 0, "max": LAST_LEVEL + 1, "tooltip": tooltip}


class SD2UnCLIPConditioning:
    """Add an image to the conditioning."""

    CATEGORY = "SD2/conditioning"
    DESCRIPTION = (
        "Guide an unCLIP model with an image, with or without a prompt. Chain several of these nodes to mix images by "
        "weight: sum(weight * vector) / sum(weight), as in the reference code."
    )
    SEARCH_ALIASES = ("unclip", "image variation", "image prompt", "mix images", "clip vision conditioning")
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = (
        "The conditioning with the image, for the sampler's positive input or the next SD2 unCLIP Conditioning.",
    )
    FUNCTION = "add_image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "The encoded prompt, or the previous node of a chain."}),
                "clip_vision_output": (
                    "CLIP_VISION_OUTPUT",
                    {"tooltip": "The image, encoded by CLIP Vision Encode with the checkpoint's clip_vision."},
                ),
                "weight": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -10.0,
                        "max": 10.0,
                        "step": 0.01,
                        "tooltip": "Share of this image in the mix; negative values steer away from it, 0 leaves it "
                        "out. A single image looks the same at any weight.",
                    },
                ),
                "noise_level": _noise(
                    0, "Noise to add to the image embedding; more gives freer variations. 1000 counts as 999."
                ),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 0xFFFFFFFFFFFFFFFF,
                        "control_after_generate": True,
                        "tooltip": "Random seed of the noise; it matters little at a low noise_level.",
                    },
                ),
            },
            "optional": {
                "mix_noise_level": _noise(
                    MIX_LEVEL, "Noise to add to a mix of several images. The last node of a chain sets it."
                ),
            },
        }

    def add_image(
        self,
        conditioning: Conditioning,
        clip_vision_output: ImageEmbedding,
        weight: float,
        noise_level: int,
        seed: int,
        mix_noise_level: int = MIX_LEVEL,
    ) -> tuple[Conditioning]:
        if weight == 0:
            return (conditioning,)
        mixed = with_image(
            conditioning,
            clip_vision_output,
            weight=weight,
            level=noise_level,
            seed=seed,
            mix_level=mix_noise_level,
        )
        return (mixed,)


class SD2LoadImageEmbedding:
    """Load CLIP image embeddings from a file."""

    CATEGORY = "SD2/conditioning"
    DESCRIPTION = (
        "Load CLIP image embeddings, such as the output of a prior, from a .safetensors file. The file needs a single "
        "tensor, [width] or [number, width], or one named image_embeds."
    )
    SEARCH_ALIASES = ("prior", "karlo", "image embeds", "clip vision output", "unclip")
    RETURN_TYPES = ("CLIP_VISION_OUTPUT",)
    RETURN_NAMES = ("clip_vision_output",)
    OUTPUT_TOOLTIPS = ("The embeddings, for SD2 unCLIP Conditioning.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        files = sorted(path.name for path in backend.input_dir().glob("*.safetensors"))
        options = {"tooltip": "A .safetensors file in the input folder.", "sd2_upload": True}  # by `sd2 run --server`
        return {"required": {"file": (files, options)}}

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool | str:
        if file is None:  # linked: its value is not known yet
            return True
        try:
            _input_file(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, file: str) -> str:
        stat = _input_file(file).stat()
        return f"{stat.st_mtime_ns}-{stat.st_size}"

    def load(self, file: str) -> tuple[ImageEmbedding]:
        try:
            tensors = load_file(_input_file(file))
        except SafetensorError as error:
            raise ValueError(f"{file} is not a safetensors file ({error}); save the embeddings again") from error
        found = tensors.get("image_embeds", next(iter(tensors.values())) if len(tensors) == 1 else None)
        if found is None or found.ndim not in (1, 2) or not found.isfinite().all():
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
            raise ValueError(
                f"{file} contains {shapes or 'no tensors'}; save one finite tensor [number, width] as image_embeds"
            )
        return (ImageEmbedding(found.float().reshape(-1, found.shape[-1])),)


def _input_file(name: str) -> Path:
    path = inside(backend.input_dir(), name)
    if not path.is_file():
        raise ValueError(f"{name} is not in the input folder {backend.input_dir()}; copy it there")
    return path
