"""Fit the colors of latents and state them in the demo checkpoints, for the previews during sampling.

python -m sd2_family.training.latent_colors models/demo/*.safetensors

The tensors of a file stay as they are, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import torch
from torch.nn import functional as F

from ..models.latent_rgb import LATENT_RGB, LatentRGB
from ..pipeline.components import VAE, NoAutoencoder, load
from . import dataset
from .dataset import Images


def fit(vae: VAE, images: Images) -> LatentRGB:
    """Fit rgb = bias + latent @ factors by least squares, over all latent pixels of images uint8 [N, H, W, 3].

    latent: scaled, of the autoencoder's own encoder; rgb: the mean of the image pixels that it stands for, in -1..1.
    """
    latents = vae.spec.scale * vae.encode(dataset.to_floats(images)).float().cpu()
    rgb = F.avg_pool2d(dataset.to_tensor(images), vae.spec.factor)
    z, y = (pixels.movedim(1, -1).flatten(0, 2).double() for pixels in (latents, rgb))
    solution = torch.linalg.lstsq(torch.cat([z, torch.ones_like(z[:, :1])], 1), y).solution
    *factors, bias = [(round(r, 4), round(g, 4), round(b, 4)) for r, g, b in solution.tolist()]
    return LatentRGB(tuple(factors), bias)


def set_metadata(path: Path, key: str, value: str) -> None:
    """Set one entry of a safetensors file's metadata; its tensors are copied byte for byte.

    The format: the header's length as uint64, the header as JSON padded with spaces, the tensors.
    """
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {**header.get("__metadata__", {}), key: value}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    beside.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    arguments = parser.parse_args()
    images, _ = dataset.scenes(arguments.folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    for path in arguments.files:
        vae = load(path).vae
        if isinstance(vae, NoAutoencoder):
            parser.error(f"{path.name} has no autoencoder; name files that have one")
        set_metadata(path, LATENT_RGB, fit(vae, images).to_json())


if __name__ == "__main__":
    main()
