"""Draw README's picture: scenes with a brushed mask, and what the demo model paints there.

    python -m sd2_family.benchmarks.inpainting.hero web/docs/inpaint.png

A scene is four times as large as what the demo was trained at. A crop of it is repainted, upscaled with the demo
upscaler, and stitched back.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...pipeline.components import load
from ...pipeline.crop import Window, crop, stitch_all
from ...pipeline.lama_masks import Mask, binary
from ...pipeline.masks import grow
from ...pipeline.stable_diffusion import StableDiffusion
from ...training.dataset import SIZE
from ...training.export import DEMO, FILES
from ...training.progress_bar import progress_bar
from ...training.random_masks import Box
from ...training.world.scenes import plain_caption, render
from .cases import Pixels

SCENE, TILE = 512, 408  # pixels: of a scene as painted, and in the picture
GAP, LINE, FONT = 8, 34, 22  # pixels: between tiles, of a caption, of its letters
BRUSH, EDGE = 60, 3  # pixels: of the mask, and of its outline
PAINT = (86, 60, 230)  # color of the mask
OPACITY = 0.5
CONTEXT = 1.5
UPSCALE_STEPS, UPSCALE_CFG = 10, 1.0


@dataclass(frozen=True)
class Job:
    """A scene by its seed, with what is in it and what is to replace that, each a color and a kind; and a seed."""

    scene: int
    background: str
    before: tuple[str, str]
    wanted: tuple[str, str]
    seed: int


JOBS = (
    Job(9_000_007, "in a forest", ("white", "cat"), ("red", "house"), 0),
    Job(9_000_000, "under a night sky", ("green", "tree"), ("red", "rocket"), 4),
    Job(9_000_000, "at sunset", ("red", "apple"), ("orange", "balloon"), 2),
    Job(9_000_014, "in the snow", ("yellow", "car"), ("red", "mushroom"), 2),
)


def brushed(box: Box) -> Mask:
    """A mask as if brushed over an object: a thick line to and fro, [SCENE, SCENE]."""
    left, top, right, bottom = box
    mask = Image.new("L", (SCENE, SCENE))
    draw, radius = ImageDraw.Draw(mask), BRUSH // 2
    rows = np.linspace(top + radius / 3, bottom - radius / 3, max(2, round((bottom - top) / BRUSH * 1.6)))
    path = [(x, y) for row, y in enumerate(rows) for x in ((left, right) if row % 2 else (right, left))]
    draw.line(path, fill=255, width=BRUSH, joint="curve")
    for x, y in path:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return binary(mask)


def before_and_mask(job: Job) -> tuple[Pixels, Mask]:
    """The scene, and the mask over its object."""
    scene = render(job.scene, size=SCENE, items=[job.before], background=job.background)
    return scene.image, brushed(scene.items[0].box)


def repainted(job: Job, inpaint: StableDiffusion, upscale: StableDiffusion | None) -> Pixels:
    """The scene with its object replaced, in the model's own sharpness without a model to upscale."""
    image, mask = before_and_mask(job)
    prompt = plain_caption(*job.wanted, job.background)
    (cut,) = crop(_tensor(image), torch.from_numpy(mask)[None], Window(size=(SIZE, SIZE), factor=CONTEXT))
    painted = inpaint.inpaint(cut.image, cut.mask, prompt, seed=job.seed).image
    if upscale is not None:
        painted = upscale.upscale(painted, prompt, seed=job.seed, steps=UPSCALE_STEPS, cfg=UPSCALE_CFG).image
    (result,) = stitch_all([cut.stitch], [_tensor(np.asarray(painted))], color_match=False)
    pixels: Pixels = (result[0] * 255).round().byte().numpy()
    return pixels


def marked(image: Pixels, mask: Mask) -> Pixels:
    """The image with the mask over it, as a mask editor shows it: a tint and an outline."""
    inner = grow(torch.from_numpy(mask)[None], -EDGE)[0].numpy()
    strength = np.where(inner > 0, OPACITY, mask)[..., None]
    pixels: Pixels = (image * (1 - strength) + np.array(PAINT) * strength).round().astype(np.uint8)
    return pixels


def picture(jobs: list[Job], results: list[Pixels]) -> Image.Image:
    """Scenes with their masks above the results and the prompts."""
    sheet = Image.new("RGB", (len(jobs) * (TILE + GAP) - GAP, 2 * TILE + GAP + LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for index, (job, result) in enumerate(zip(jobs, results, strict=True)):
        x = index * (TILE + GAP)
        for row, tile in enumerate((marked(*before_and_mask(job)), result)):
            sheet.paste(Image.fromarray(tile).resize((TILE, TILE), Image.Resampling.LANCZOS), (x, row * (TILE + GAP)))
        prompt = plain_caption(*job.wanted, job.background)
        draw.text((x + TILE / 2, sheet.height - LINE / 2 + 2), prompt, fill=(90, 90, 90), font=font, anchor="mm")
    return sheet


def _tensor(image: Pixels) -> Tensor:
    return torch.from_numpy(image.copy()).float().div(255)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    inpaint, upscale = (StableDiffusion(load(DEMO / FILES[name].name)) for name in ("inpaint", "upscale"))
    results = [repainted(job, inpaint, upscale) for job in progress_bar(JOBS, "scenes")]
    picture(list(JOBS), results).save(arguments.file, optimize=True)


if __name__ == "__main__":
    main()
