"""Colors of a latent without its decoder: the linear map that previews during sampling use.

A file whose autoencoder is not Stable Diffusion's states its own map in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

LATENT_RGB = "sd2_family.latent_rgb"  # metadata: a LatentRGB as JSON


@dataclass(frozen=True)
class LatentRGB:
    """rgb = bias + sum over channels c of latent[c] * factors[c], in -1..1, of scaled latents (those of the UNet)."""

    factors: tuple[tuple[float, float, float], ...]  # one row per latent channel
    bias: tuple[float, float, float]

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def latent_rgb(metadata: Mapping[str, str]) -> LatentRGB | None:
    """Read the map from a file's metadata; None if the file does not state one."""
    if LATENT_RGB not in metadata:
        return None
    try:
        stated = json.loads(metadata[LATENT_RGB])
        factors, bias = tuple(_rgb(row) for row in stated["factors"]), _rgb(stated["bias"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"the metadata {LATENT_RGB} is {metadata[LATENT_RGB]!r}; write it as "
            '{"factors": [[r, g, b] per latent channel], "bias": [r, g, b]}'
        ) from error
    return LatentRGB(factors, bias)


def _rgb(row: list[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, row)
    return red, green, blue
