"""Write the trained phases as checkpoints in the original layout: python -m sd2_family.training.export"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models.detection import GROUP_SIZE
from ..models.latent_rgb import LATENT_RGB
from ..models.specs import Prediction
from ..models.weights_file import REST, part, read
from ..pipeline.components import VAE
from . import dataset, depth_phase, latent_colors, unclip_phase, upscale_phase
from .autoencoder_phase import load_autoencoder
from .latent_cache import scene_latents
from .trainer import averaged

DEMO = Path(__file__).parent.parent / "models" / "demo"
DESCRIPTION = (
    "A toy: 128 px picture-book scenes of 12 objects in 10 colours on 8 backgrounds, trained from nothing on a CPU."
)


@dataclass(frozen=True)
class DemoFile:
    """Name, title and objective of an exported checkpoint."""

    name: str
    title: str
    prediction: Prediction


FILES = {
    "base": DemoFile("sd2-demo-base.safetensors", "SD2 demo, text to image", "epsilon"),
    "inpaint": DemoFile("sd2-demo-inpaint.safetensors", "SD2 demo, inpainting", "epsilon"),
    "v": DemoFile("sd2-demo-v.safetensors", "SD2 demo, text to image (v objective)", "v_prediction"),
    "depth": DemoFile("sd2-demo-depth.safetensors", "SD2 demo, depth-guided", "epsilon"),
    "unclip": DemoFile("sd2-demo-unclip.safetensors", "SD2 demo, image variations (unCLIP)", "v_prediction"),
    "upscale": DemoFile("sd2-demo-x4.safetensors", "SD2 demo, x4 upscaling", "v_prediction"),
}
EXTRA_TENSORS = {
    "depth": depth_phase.extra_tensors,
    "unclip": unclip_phase.extra_tensors,
    "upscale": upscale_phase.extra_tensors,
}
FLOAT32_PREFIXES = ("noise_augmentor.", "low_scale_model.")  # noise schedules, too fine for float16
PREFIXES = (  # state, prefix in the state, prefix in the checkpoint
    ("autoencoder", "", "first_stage_model."),
    ("start", "unet.", "model.diffusion_model."),
    ("start", "text.", "cond_stage_model."),
)


def checkpoint(weights: dict[str, Tensor], vae: VAE) -> dict[str, Tensor]:
    """Convert to float16 tensors under the keys of Stability's files."""
    states = {"autoencoder": vae.autoencoder.state_dict(), "start": weights}
    return {
        theirs + key.removeprefix(ours): weight.to("cpu", torch.float16).contiguous()
        for state, ours, theirs in PREFIXES
        for key, weight in states[state].items()
        if key.startswith(ours)
    }


def checkpoint_tensors(phase: str, folder: Path, vae: VAE, vocabulary: Tensor) -> dict[str, Tensor]:
    """Collect the checkpoint of a phase trained in `folder`; `vocabulary`: the tokens that captions hold."""
    weights = averaged(folder / f"{phase}.pt")
    zero_untrained_tokens(weights, vocabulary)
    tensors = checkpoint(weights, vae)
    extra = EXTRA_TENSORS[phase](folder, weights) if phase in EXTRA_TENSORS else {}
    for key, tensor in extra.items():
        dtype = torch.float32 if key.startswith(FLOAT32_PREFIXES) else torch.float16
        tensors[key] = tensor.to("cpu", dtype).contiguous()
    return tensors


def zero_untrained_tokens(weights: dict[str, Tensor], vocabulary: Tensor) -> None:
    """Zero the embeddings of tokens that no caption holds, which still have their random initial values."""
    embedding = weights["text.model.token_embedding.weight"]
    kept = torch.zeros(len(embedding), 1, device=embedding.device)
    kept[vocabulary] = 1
    embedding.mul_(kept)


def without_shared_parts(tensors: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts whose tensors are all identical in `other`."""
    own = {part(key) for key, tensor in tensors.items() if key not in other or not torch.equal(tensor, other[key])}
    return {key: tensor for key, tensor in tensors.items() if part(key) in own}


def write(phase: str, folder: Path, out: Path, vae: VAE, vocabulary: Tensor) -> Path:
    """Write the file of a phase, without the parts that it shares with the base's file beside it."""
    file = FILES[phase]
    if phase == "upscale":
        vae = upscale_phase.load_upscale_autoencoder(folder)
    images, _ = dataset.scenes(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    metadata = {
        "modelspec.title": file.title,
        "modelspec.description": DESCRIPTION,
        "modelspec.prediction_type": file.prediction,
        "modelspec.license": "Apache-2.0",
        "modelspec.resolution": "128x128",
        GROUP_SIZE: str(vae.spec.group_size),
        LATENT_RGB: latent_colors.fit(vae, images).to_json(),
    }
    tensors = checkpoint_tensors(phase, folder, vae, vocabulary)
    if phase in EXTRA_TENSORS:
        base = FILES["base"].name
        tensors = without_shared_parts(tensors, read(out / base).tensors)
        metadata[REST] = base
    save_file(tensors, out / file.name, metadata)
    return out / file.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--out", type=Path, default=DEMO)
    arguments = parser.parse_args()
    vae = load_autoencoder(arguments.folder)
    vocabulary = torch.unique(scene_latents(arguments.folder, vae).tokens)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for phase in FILES:
        if (arguments.folder / f"{phase}.pt").exists():
            write(phase, arguments.folder, arguments.out, vae, vocabulary)


if __name__ == "__main__":
    main()
