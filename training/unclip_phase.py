"""The phase `unclip`: an image tower, then the v model resumed with what the tower sees as class condition.

As Stable unCLIP 2.1 was made of Stable Diffusion 2.1 (arXiv:2204.06125), with the layout of its H file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.clip_image import ImageTower, preprocess
from ..models.noise_augmentation import LEVELS, NoiseAugmentation
from ..models.specs import ImageSpec
from . import dataset as data
from . import latent_cache as latents
from .world.scenes import BACKGROUNDS, COLOURS, KINDS
from .train import (
    AUTOENCODER,
    SCENES,
    TEXT,
    UNET,
    TextToImage,
    captions,
    denoising_loss,
    load_autoencoder,
    predecessor,
    resume,
    timesteps,
)
from .trainer import Plan, averaged, device, train

TOWER = ImageSpec(width=160, layers=4, head_width=80, patch_size=16, image_size=data.SIZE, embed_dim=TEXT.width)
TOWER_PLAN = Plan(steps=3_000, batch=32, rate=1e-3)
AUGMENTATION = NoiseAugmentation(TOWER.embed_dim)
BLUR = 0.2  # noise on the embedding that is read, so that nothing is told in a whisper
WORDLESS = 0.8  # captions left out: a picture alone must be enough
BLIND = 0.1  # pictures left out
LOUDNESS = 2.0  # singular values of the class embedding's last layer at first: about as loud as the timestep's
LOG_SIGMA = 0.8, 1.2  # mean and deviation of the noise levels: what a picture shows is decided at high noise
ABSENT = -100  # the colour of what is not there: cross_entropy's own number for "do not count"
READ = {"kinds": len(KINDS), "colours": len(KINDS) * len(COLOURS), "boxes": len(KINDS) * 4, "place": len(BACKGROUNDS)}


def train_unclip(folder: Path, plan: Plan) -> None:
    fit_tower(folder, TOWER_PLAN)
    scenes = latents.load(folder, load_autoencoder(folder), AUTOENCODER.scale, SCENES)
    pictures, _ = data.scenes(folder, SCENES)
    embeddings = embed(load_tower(folder), pictures)
    torch.manual_seed(plan.seed)
    model = variations()
    fresh = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("unet.label_emb.")}
    resume(model, {**averaged(predecessor("unclip", folder)), **fresh}, torch.zeros(0))
    model.text.requires_grad_(False)
    train(model, partial(unclip_loss, scenes, embeddings, plan.batch), plan, folder / "unclip.pt")


def variations() -> TextToImage:
    """The denoiser with a class condition that is heard from the first step: from zero it takes thousands to be."""
    model = TextToImage(UNET.in_channels, replace(UNET, vector_dim=2 * TOWER.embed_dim))
    last = model.unet.label_emb[0][2]
    nn.init.orthogonal_(last.weight, gain=LOUDNESS)
    nn.init.zeros_(last.bias)
    return model


def unclip_loss(
    scenes: latents.Latents,
    embeddings: Tensor,
    batch: int,
    model: nn.Module,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """`denoising_loss` of the velocity, the embeddings [N, dim] noised to any level, oftener a low one, as class
    condition."""
    index = torch.from_numpy(choices.integers(0, len(embeddings), batch))
    tokens = captions(scenes.tokens, index, choices, WORDLESS)
    t = timesteps(choices, batch, log_sigma=LOG_SIGMA)
    seen = embeddings[index]
    levels = torch.from_numpy((LEVELS * choices.random(batch) ** 3).astype(np.int64))
    draws = torch.randn(seen.shape, generator=noise, device=noise.device).cpu()
    y = AUGMENTATION(seen, levels, draws)
    y = torch.where(torch.from_numpy(choices.random(batch) < BLIND)[:, None], 0, y)
    return denoising_loss(model, scenes.pictures[index], t, tokens, "v_prediction", noise, y=y)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is in each of N pictures."""

    kinds: Tensor  # [N, kinds], 1 where there is one
    colours: Tensor  # int64 [N, kinds], or ABSENT
    boxes: Tensor  # [N, kinds, 4] in 0..1
    place: Tensor  # int64 [N]

    @classmethod
    def of(cls, notes: list[data.Note]) -> Truth:
        """From the notes of `data.truths`."""
        kinds = torch.zeros(len(notes), len(KINDS))
        colours = torch.full(kinds.shape, ABSENT)
        boxes = torch.zeros(*kinds.shape, 4)
        for i, note in enumerate(notes):
            for item in note["items"]:
                k = KINDS.index(item["kind"])
                kinds[i, k], colours[i, k] = 1, list(COLOURS).index(item["colour"])
                boxes[i, k] = torch.tensor(item["box"]) / data.SIZE
        place = torch.tensor([BACKGROUNDS.index(note["background"]) for note in notes])
        return cls(kinds=kinds, colours=colours, boxes=boxes, place=place)


class Reader(nn.Module):
    """The tower, and one linear layer that reads the scene from its embedding.

    CLIP's own loss tells a picture's caption from those of others, and learns what small things look like from batches
    of thousands. Here the renderer can say outright what should be legible: kinds, their colours and places, and the
    background. That takes minutes; and nothing compares the embedding with captions, for the UNet reads it alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tower = ImageTower(TOWER)
        self.read = nn.Linear(TOWER.embed_dim, sum(READ.values()))

    def forward(self, pixels: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        """pixels: [B, 3, 128, 128] from `preprocess` -> logits of kinds, colours and place, and boxes."""
        e = F.batch_norm(self.tower(pixels), None, None, training=True)  # as `load_tower` normalises it
        e = e + BLUR * torch.randn(e.shape, generator=noise, device=e.device)
        kinds, colours, boxes, place = self.read(e).split(list(READ.values()), dim=1)
        return {
            "kinds": kinds,
            "colours": colours.unflatten(1, (len(KINDS), len(COLOURS))),
            "boxes": boxes.unflatten(1, (len(KINDS), 4)),
            "place": place,
        }


def tower_loss(
    pictures: np.ndarray,
    truth: Truth,
    batch: int,
    model: nn.Module,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """How badly random scenes can be read from their embeddings: all that is asked adds up."""
    index = choices.integers(0, len(pictures), batch)
    found = model(pixels(pictures[index]).to(device()), noise)
    kinds, colours, boxes, place = (
        part[torch.from_numpy(index)].to(device()) for part in (truth.kinds, truth.colours, truth.boxes, truth.place)
    )
    there = kinds.bool()
    return (
        F.binary_cross_entropy_with_logits(found["kinds"], kinds, reduction="sum") / batch
        + F.cross_entropy(found["colours"].flatten(0, 1), colours.flatten(), ignore_index=ABSENT)
        + (found["boxes"] - boxes)[there].abs().sum() / batch
        + F.cross_entropy(found["place"], place)
    )


def fit_tower(folder: Path, plan: Plan) -> None:
    pictures, _ = data.scenes(folder, SCENES)
    truth = Truth.of(data.truths(folder, SCENES)[1])
    unseen, _ = data.scenes(folder, data.CHECKED, data.UNSEEN)
    unseen_truth = Truth.of(data.truths(folder, data.CHECKED, data.UNSEEN)[1])
    torch.manual_seed(plan.seed)
    state = folder / "tower.pt"
    check = partial(legible, unseen, unseen_truth)
    train(Reader(), partial(tower_loss, pictures, truth, plan.batch), plan, state, check)


@torch.inference_mode()
def legible(pictures: np.ndarray, truth: Truth, model: nn.Module) -> str:
    """How much of the pictures can be read from their embeddings."""
    found = model(pixels(pictures).to(device()), torch.Generator(device()).manual_seed(0))
    there = truth.kinds.bool()
    right_kind = found["kinds"].cpu().argmax(1, keepdim=True)
    colour = (found["colours"].cpu().argmax(2) == truth.colours)[there].float().mean()
    place = (found["place"].cpu().argmax(1) == truth.place).float().mean()
    off = (found["boxes"].cpu() - truth.boxes)[there].abs().mean() * data.SIZE
    kind = truth.kinds.gather(1, right_kind).mean()
    return f"kind {100 * kind:.1f} %, colour {100 * colour:.1f} %, place {100 * place:.1f} %, boxes off {off:.1f} px"


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> what the tower sees."""
    return preprocess(torch.from_numpy(np.array(pictures)) / 255, TOWER.image_size)


@torch.inference_mode()
def embed(tower: ImageTower, pictures: np.ndarray) -> Tensor:
    """[N, dim] of pictures uint8 [N, H, W, 3]."""
    parts = np.array_split(pictures, max(1, len(pictures) // 64))
    return torch.cat([tower(pixels(part).to(device())).cpu() for part in parts]).clone()


def load_tower(folder: Path) -> ImageTower:
    """The trained tower, its embeddings normalised: each number of them has mean 0 and deviation 1 over the scenes.

    So the noise is of the right size without `data_mean` and `data_std`, for which the official file has no keys.
    """
    weights = averaged(folder / "tower.pt")
    tower = ImageTower(TOWER)
    tower.load_state_dict({key.removeprefix("tower."): w for key, w in weights.items() if key.startswith("tower.")})
    tower.to(device()).eval().requires_grad_(False)
    pictures, _ = data.scenes(folder, SCENES)
    e = embed(tower, pictures[:1024]).to(device())
    mean, std = e.mean(0), e.std(0)
    visual = tower.visual
    # e = (x + b) P becomes (e - mean) / std by P' = P / std and b' = b - (mean / std) P'^+, for P'^+ P' = 1
    visual.proj /= std
    visual.ln_post.bias -= (mean / std) @ torch.linalg.pinv(visual.proj)
    return tower


def beside(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the checkpoint holds beside UNet, autoencoder and text tower, by its key there.

    The official file also holds most of CLIP's text half, which nothing reads; here it is the demo's own text tower,
    but for the vectors of tokens that no caption holds (zeros in `weights`): they would be 6 MB of nothing.
    """
    text = {key.removeprefix("text.model."): w for key, w in weights.items() if key.startswith("text.model.")}
    half = {key: w for key, w in text.items() if not key.startswith("transformer.")}
    half["token_embedding.weight"] = half["token_embedding.weight"][half["token_embedding.weight"].any(1)]
    embedder = {**load_tower(folder).state_dict(), **half}
    return {
        **{f"embedder.model.{key}": tensor for key, tensor in embedder.items()},
        **{f"noise_augmentor.{key}": tensor for key, tensor in AUGMENTATION.state_dict().items()},
    }
