"""Write the trained phases as checkpoints in the original layout: python -m sd2_family.training.export"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models.autoencoder import AutoencoderKL
from ..models.files import REST, part, read
from . import depth_phase as depth
from . import latent_cache as latents
from . import unclip_phase as unclip
from . import upscale_phase as upscale
from .train import AUTOENCODER, SCENES, load_autoencoder
from .trainer import averaged

DEMO = Path(__file__).parent.parent / "models" / "demo"
ABOUT = (
    "A toy: 128 px picture-book scenes of 12 objects in 10 colours on 8 backgrounds, trained from nothing on a CPU."
)
FILES = {
    "base": ("sd2-demo-base.safetensors", "SD2 demo, text to image", "epsilon"),
    "inpaint": ("sd2-demo-inpaint.safetensors", "SD2 demo, inpainting", "epsilon"),
    "v": ("sd2-demo-v.safetensors", "SD2 demo, text to image (v objective)", "v_prediction"),
    "depth": ("sd2-demo-depth.safetensors", "SD2 demo, depth-guided", "epsilon"),
    "unclip": ("sd2-demo-unclip.safetensors", "SD2 demo, image variations (unCLIP)", "v_prediction"),
    "upscale": ("sd2-demo-x4.safetensors", "SD2 demo, x4 upscaling", "v_prediction"),
}
BESIDE = {"depth": depth.beside, "unclip": unclip.beside, "upscale": upscale.beside}


TABLES = ("noise_augmentor.", "low_scale_model.")  # noise schedules, too fine for float16
PREFIXES = (  # a phase's state, its names, Stability's
    ("autoencoder", "", "first_stage_model."),
    ("start", "unet.", "model.diffusion_model."),
    ("start", "text.", "cond_stage_model."),
)


def checkpoint(weights: dict[str, Tensor], autoencoder: AutoencoderKL) -> dict[str, Tensor]:
    """Float16 tensors under the keys of Stability's files."""
    states = {"autoencoder": autoencoder.state_dict(), "start": weights}
    return {
        theirs + key.removeprefix(ours): weight.to("cpu", torch.float16).contiguous()
        for state, ours, theirs in PREFIXES
        for key, weight in states[state].items()
        if key.startswith(ours)
    }


def tensors(phase: str, folder: Path, autoencoder: AutoencoderKL, said: Tensor) -> dict[str, Tensor]:
    """The checkpoint of a phase that has run in `folder`; `said`: the tokens that captions hold."""
    weights = averaged(folder / f"{phase}.pt")
    forget_unsaid(weights, said)
    found = checkpoint(weights, upscale.load_autoencoder(folder) if phase == "upscale" else autoencoder)
    beside = BESIDE[phase](folder, weights) if phase in BESIDE else {}
    for key, tensor in beside.items():
        found[key] = tensor.to("cpu", torch.float32 if key.startswith(TABLES) else torch.float16).contiguous()
    return found


def forget_unsaid(weights: dict[str, Tensor], said: Tensor) -> None:
    """Zero the vectors of tokens that no caption holds: they are as they were drawn at first, and only noise."""
    embedding = weights["text.model.token_embedding.weight"]
    kept = torch.zeros(len(embedding), 1, device=embedding.device)
    kept[said] = 1
    embedding.mul_(kept)


def without(tensors: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Less the parts that are the very same in `other`."""
    own = {part(key) for key, tensor in tensors.items() if key not in other or not torch.equal(tensor, other[key])}
    return {key: tensor for key, tensor in tensors.items() if part(key) in own}


def write(phase: str, folder: Path, out: Path, autoencoder: AutoencoderKL, said: Tensor) -> Path:
    """Write the file of a phase; what is the very same in the base's, which lies beside it, is left to that one."""
    name, title, prediction = FILES[phase]
    metadata = {
        "modelspec.title": title,
        "modelspec.description": ABOUT,
        "modelspec.prediction_type": prediction,
        "modelspec.license": "Apache-2.0",
        "modelspec.resolution": "128x128",
    }
    found = tensors(phase, folder, autoencoder, said)
    if phase in BESIDE:
        base = FILES["base"][0]
        found = without(found, read(out / base).tensors)
        metadata[REST] = base
    save_file(found, out / name, metadata)
    return out / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--out", type=Path, default=DEMO)
    arguments = parser.parse_args()
    autoencoder = load_autoencoder(arguments.folder)
    said = latents.load(arguments.folder, autoencoder, AUTOENCODER.scale, SCENES).tokens.unique()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for phase in FILES:
        if (arguments.folder / f"{phase}.pt").exists():
            write(phase, arguments.folder, arguments.out, autoencoder, said)


if __name__ == "__main__":
    main()
