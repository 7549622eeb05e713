"""Measure the demo checkpoint on prompts and masks that it never saw: python -m sd2_family.training.evaluate

A small classifier, trained here on rendered scenes only, says which object in which colour it sees inside the mask.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..models.checkpoint import Checkpoint, load_checkpoint
from ..samplers import SAMPLERS, SCHEDULERS, Denoise, NoiseSchedule, denoiser, final_sample, initial_sample
from ..samplers.guidance import cfg as guided
from . import dataset as data
from . import latent_cache as latents
from .export import DEMO
from .random_masks import around, binary, hidden
from .world.scenes import BACKGROUNDS, COLOURS, HELD_OUT, KINDS, Item, plain_caption, render
from .train import psnr
from .trainer import Plan, averaged, device, train

VIEW = 64  # the classifier's input, pixels
PAIRS = [(colour, kind) for colour in COLOURS for kind in KINDS]
PLAN = Plan(steps=1_500, batch=48, rate=2e-3)
EXAMPLES = 6_000
HIDDEN = 0.95  # the part of a scene's object that a mask must cover


@dataclass(frozen=True)
class Trial:
    """A scene, a mask that hides its object, and what to paint there instead."""

    picture: np.ndarray  # uint8 [H, W, 3]
    mask: np.ndarray  # float [H, W] of 0 and 1
    colour: str
    kind: str
    background: str

    @property
    def prompt(self) -> str:
        return plain_caption(self.colour, self.kind, self.background)


def over(rng: np.random.Generator, item: Item) -> np.ndarray:
    """A mask over an object and some room around it: float [H, W] of 0 and 1."""
    return binary(around(rng, data.SIZE, item.box))


def trials(count: int, pairs: list[tuple[str, str]], first: int) -> list[Trial]:
    """Unseen scenes, masks and prompts, from seed `first` on; pairs are used in turn.

    A mask lies where the object asked for might be in such a scene (no balloon is asked for on the ground) and hides
    the one that was there: of ever more scenes, those in which both hold.
    """
    made, seeds = list[Trial](), itertools.count(first)
    while len(made) < count:
        seed = next(seeds)
        colour, kind = pairs[len(made) % len(pairs)]
        scene = render(seed, size=data.SIZE, count=1)
        wanted = render(seed, size=data.SIZE, items=[(colour, kind)], background=scene.background)
        mask = over(np.random.default_rng((seed, 3)), wanted.items[0])
        if scene.items[0].kind != kind and hidden(mask, [scene.items[0].box]) > HIDDEN:
            made.append(Trial(scene.image, mask, colour, kind, scene.background))
    return made


def view(picture: Tensor, mask: np.ndarray) -> Tensor:
    """What the classifier sees: the square around the mask, [3, VIEW, VIEW] of a picture [3, H, W]."""
    ys, xs = np.nonzero(mask)
    half = max(np.ptp(ys), np.ptp(xs)) // 2 + 2
    y, x = (int(v.min() + v.max()) // 2 + half for v in (ys, xs))
    padded = F.pad(picture[None], (half,) * 4, mode="replicate")
    square = padded[:, :, y - half : y + half, x - half : x + half]
    return F.interpolate(square, size=(VIEW, VIEW), mode="bilinear", antialias=True)[0]


class Classifier(nn.Module):
    """[B, 3, VIEW, VIEW] -> the logits of kinds [B, 12] and of colours [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(b // 16, b), nn.GELU())
                for a, b in pairwise(widths)
            ),
            nn.Flatten(),
        )
        self.kind = nn.Linear(128 * (VIEW // 16) ** 2, len(KINDS))
        self.colour = nn.Linear(128 * (VIEW // 16) ** 2, len(COLOURS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.kind(h), self.colour(h)


def examples(count: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of rendered objects with their kind and colour, every pair alike: what the classifier learns from."""
    views, kinds, colours = [], [], []
    for seed in tqdm(range(first, first + count), "examples"):
        rng = np.random.default_rng((seed, 4))
        background = str(rng.choice(BACKGROUNDS))
        scene = render(seed, size=data.SIZE, items=[PAIRS[seed % len(PAIRS)]], background=background)
        item = scene.items[0]
        views.append(view(data.to_tensor(scene.image[None])[0], over(rng, item)))
        kinds.append(KINDS.index(item.kind))
        colours.append(list(COLOURS).index(item.colour))
    return torch.stack(views), torch.tensor(kinds), torch.tensor(colours)


def classifier(folder: Path) -> Classifier:
    """The trained judge, trained first if `folder` has none."""
    model, state = Classifier(), folder / "classifier.pt"
    if not state.exists():
        torch.manual_seed(PLAN.seed)
        views, kinds, colours = examples(EXAMPLES, 2 * data.UNSEEN)

        def loss(model: nn.Module, choices: np.random.Generator, noise: torch.Generator) -> Tensor:
            index = torch.from_numpy(choices.integers(0, len(views), PLAN.batch))
            jitter = 1 + 0.1 * torch.from_numpy(choices.uniform(-1, 1, (PLAN.batch, 3, 1, 1))).float()
            kind, colour = model((views[index] * jitter).to(device()))
            return F.cross_entropy(kind, kinds[index].to(device())) + F.cross_entropy(
                colour, colours[index].to(device())
            )

        train(model, loss, PLAN, state)
    model.load_state_dict(averaged(state))
    return model.eval().to(device())


@torch.inference_mode()
def judge(model: Classifier, pictures: Tensor, cases: list[Trial]) -> str:
    """How many of the pictures [N, 3, H, W] show the right colour, and the right object, inside the mask."""
    views = torch.stack([view(p, case.mask) for p, case in zip(pictures, cases, strict=True)])
    kind, colour = (logits.argmax(1).tolist() for logits in model(views.to(device())))
    right_colour = [list(COLOURS)[c] == case.colour for c, case in zip(colour, cases, strict=True)]
    right_kind = [KINDS[k] == case.kind for k, case in zip(kind, cases, strict=True)]
    return f"{100 * np.mean(right_colour):.1f} % right colour, {100 * np.mean(right_kind):.1f} % right object"


@torch.inference_mode()
def inpaint(model: Checkpoint, cases: list[Trial], *, scale: float, steps: int = 30, seed: int = 0) -> Tensor:
    """Pictures [N, 3, H, W] in -1..1 with each mask repainted to its prompt: ddim on the ldm schedule."""
    pictures = data.to_tensor(np.stack([case.picture for case in cases]))
    masks = torch.from_numpy(np.stack([case.mask for case in cases]))[:, None]
    factor = model.spec.autoencoder.factor
    concat = torch.cat(
        [
            F.max_pool2d(masks, factor),
            latents.encode(model.autoencoder, model.spec.autoencoder.scale, pictures * (masks < 0.5)),
        ],
        dim=1,
    )
    prompts = [case.prompt for case in cases]
    painted = sample(model, prompts, concat.shape[-1], concat=concat, scale=scale, steps=steps, seed=seed)
    return torch.where(masks > 0.5, painted, pictures)


@torch.inference_mode()
def sample(
    model: Checkpoint,
    prompts: list[str],
    side: int,
    *,
    scale: float,
    steps: int = 30,
    seed: int = 0,
    concat: Tensor | None = None,
    y: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Pictures [N, 3, H, W] in -1..1 to N prompts, from latents of `side`: ddim on ldm, guided by `scale`.

    concat: [N, C, side, side], inputs beside the noisy latents; y: class conditions, with the prompt and without.
    """
    texts = model.text(torch.stack([latents.tokens_of(prompt) for prompt in prompts]).to(device()))
    empty = model.text(latents.tokens_of("")[None].to(device())).expand_as(texts)
    beside = torch.empty(len(prompts), 0, side, side) if concat is None else concat
    classes = (None, None) if y is None else tuple(part.to(device()) for part in y)
    schedule = NoiseSchedule(beta_start=model.spec.beta_start, beta_end=model.spec.beta_end)

    def one_side(context: Tensor, condition: Tensor | None) -> Denoise:
        inputs = beside.to(device())
        return denoiser(
            lambda x, t: model.unet(torch.cat([x, inputs], dim=1), t, context, condition), schedule, model.prediction
        )

    sides = [one_side(*conditions) for conditions in zip((texts, empty), classes, strict=True)]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if scale == 1:
            return sides[0](x, sigma)
        return guided(sides[0](x, sigma), sides[1](x, sigma), scale)

    noise = torch.randn(len(prompts), 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device())
    sigmas = SCHEDULERS["ldm"](schedule, steps)
    start = initial_sample(noise, float(sigmas[0]))
    x = SAMPLERS["ddim"](denoise, start, sigmas, noise=lambda: torch.randn_like(noise))
    z = final_sample(x, float(sigmas[-1])) / model.spec.autoencoder.scale
    return torch.cat([model.autoencoder.decode(part) for part in z.split(latents.BATCH)]).cpu().clamp(-1, 1)


def rendered(cases: list[Trial]) -> list[Trial]:
    """What each prompt asks for, drawn by the renderer: to see how far the classifier itself can be trusted."""
    drawn = []
    for i, case in enumerate(cases):
        scene = render(4 * data.UNSEEN + i, items=[(case.colour, case.kind)], background=case.background)
        mask = over(np.random.default_rng(i), scene.items[0])
        drawn.append(replace(case, picture=scene.image, mask=mask))
    return drawn


def report(model: Checkpoint, eye: Classifier, count: int, sheet: Path | None) -> Iterator[str]:
    """The figures, a line each."""
    order = [PAIRS[i] for i in np.random.default_rng(5).permutation(len(PAIRS))]
    for n, (name, held_out) in enumerate((("pairs seen in training", False), ("pairs never trained", True))):
        cases = trials(count, [pair for pair in order if (pair in HELD_OUT) == held_out], (3 + n) * data.UNSEEN)
        truth = rendered(cases)
        pictures = data.to_tensor(np.stack([case.picture for case in truth]))
        yield f"{name}, as the renderer draws them: {judge(eye, pictures, truth)}"
        for scale in (1.0, 7.5):
            painted = inpaint(model, cases, scale=scale)
            yield f"{name}, cfg {scale:g}: {judge(eye, painted, cases)}"
        if sheet:
            _sheet(painted, cases).save(sheet.with_stem(f"{sheet.stem}-{n}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO / "sd2-demo-inpaint.safetensors")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--count", type=int, default=200, help="prompts and masks of each sort")
    parser.add_argument("--sheet", type=Path, help="also write pictures before and after to this file")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.checkpoint, dtype=torch.float32)
    for part in (model.unet, model.text, model.autoencoder):
        part.to(device())
    unseen, _ = data.scenes(arguments.folder, 200, 5 * data.UNSEEN)
    sys.stdout.write(f"autoencoder on {len(unseen)} unseen pictures: {psnr(unseen, model.autoencoder):.2f} dB\n")
    for line in report(model, classifier(arguments.folder), arguments.count, arguments.sheet):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _sheet(painted: Tensor, cases: list[Trial], columns: int = 8, rows: int = 4) -> Image.Image:
    """Rows of pictures with the mask in grey, each over its result."""
    tiles = []
    for i in range(columns * rows):
        before = np.where(cases[i].mask[..., None] > 0.5, 128, cases[i].picture)
        after = painted[i].add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
        tiles.append(np.concatenate([before, after]))
    lines = [np.concatenate(tiles[r * columns : (r + 1) * columns], axis=1) for r in range(rows)]
    return Image.fromarray(np.concatenate(lines).astype(np.uint8))


if __name__ == "__main__":
    main()
