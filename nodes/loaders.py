"""Nodes that load model files."""

from __future__ import annotations

from typing import Any, Literal

import torch

from ..backends import backend
from ..backends.queued import queued
from ..models.noise_augmentation import STATISTICS_FILES
from ..models.specs import Prediction
from .wiring import checkpoint_problem

DTYPES = {"auto": None, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class SD2CheckpointLoader:
    """Load a checkpoint, a file or a folder."""

    CATEGORY = "SD2/loaders"
    DESCRIPTION = (
        "Load a checkpoint of the Stable Diffusion 2 family (or 1.x): text-to-image, inpainting, depth, unCLIP or x4. "
        "The kind is detected from the file; the report explains how."
    )
    SEARCH_ALIASES = (
        "load model",
        "stable diffusion 2",
        "sd2 checkpoint",
        "inpainting model",
        "outpainting model",
        "v-prediction",
        "v prediction",
    )
    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "CLIP_VISION", "SD2_DEPTH_MODEL", "STRING")
    RETURN_NAMES = ("model", "clip", "vae", "clip_vision", "depth_model", "report")
    OUTPUT_TOOLTIPS = (
        "The diffusion model, for SD2 KSampler or any other sampler.",
        "The text encoder, for SD2 CLIP Text Encode.",
        "The autoencoder that converts between images and latents.",
        "The image encoder of an unCLIP checkpoint, for CLIP Vision Encode. Other kinds have none.",
        "The depth estimator of the depth checkpoint. Other kinds have none.",
        "The kind of the checkpoint, its prediction type and how both were determined.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "ckpt_name": (
                    backend.list_models("checkpoints"),
                    {"tooltip": "A file in the checkpoints folder, or a folder in the diffusers folder."},
                ),
                "prediction": (
                    ["auto", "epsilon", "v_prediction"],
                    {
                        "default": "auto",
                        "tooltip": "What the model predicts. auto detects it from the file or guesses, as the report "
                        "explains. Set it if images come out as noise or gray.",
                    },
                ),
                "dtype": (
                    list(DTYPES),
                    {
                        "default": "auto",
                        "tooltip": "Data type for computing. auto is float32 on a CPU, otherwise the file's type.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, ckpt_name: str | None) -> bool | str:
        if ckpt_name is None:  # linked: its value is not known yet
            return True
        try:
            path = backend.resolve_model("checkpoints", ckpt_name)
            return checkpoint_problem(path, queued(), ckpt_name) or True
        except ValueError as error:
            return str(error)

    @classmethod
    def IS_CHANGED(cls, ckpt_name: str, prediction: str, dtype: str) -> str:
        path = backend.resolve_model("checkpoints", ckpt_name)
        files = [path, *path.rglob("*"), *(path.parent / name for name in STATISTICS_FILES)]
        stats = [file.stat() for file in files if file.is_file()]
        return " ".join(f"{stat.st_mtime_ns}-{stat.st_size}" for stat in stats)

    def load(
        self, ckpt_name: str, prediction: Literal["auto"] | Prediction = "auto", dtype: str = "auto"
    ) -> tuple[Any, ...]:
        return tuple(backend.load_checkpoint(ckpt_name, prediction, DTYPES[dtype]))
