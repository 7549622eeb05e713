"""Train the demo checkpoints from nothing, in the phases that the model cards describe.

    python -m sd2_family.training.train autoencoder   # pictures <-> latents
    python -m sd2_family.training.train base          # text to image, eps objective; the text tower learns along
    python -m sd2_family.training.train v             # the base resumed with the v objective
    python -m sd2_family.training.train inpaint       # the base resumed with mask and masked picture as input
    python -m sd2_family.training.train depth         # a depth estimator; the base resumed with its depth as input
    python -m sd2_family.training.train unclip        # an image tower; v resumed with its vector as condition
    python -m sd2_family.training.train upscale       # an autoencoder of its own; its latents from a small picture

Every phase can be stopped and started again, takes the same steps whenever it is run with the same seed, and keeps
its state in `--folder` (training/runs). `python -m sd2_family.training.export` makes the .safetensors files from it,
and `python -m sd2_family.training.unpack` lays such a file out again, to go on from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..models.autoencoder import AutoencoderKL
from ..models.clip_text import OpenCLIPText
from ..models.specs import SPECS, AutoencoderSpec, TextSpec, UNetSpec
from ..models.unet import UNet
from ..samplers.schedule import NoiseSchedule
from . import dataset as data
from . import latent_cache as latents
from .trainer import Plan, averaged, device, train

AUTOENCODER = AutoencoderSpec(channels=32, channel_mult=(1, 1, 2, 4), num_res_blocks=1)
TEXT = TextSpec(width=64, layers=5, heads=1)
UNET = UNetSpec(
    model_channels=64,
    channel_mult=(1, 1, 2),
    num_res_blocks=1,
    attention=(True, True, True),
    self_attention=(True, True, True),
    context_dim=TEXT.width,
)
SCHEDULE = NoiseSchedule()
SCENES = 8_000
CROP = 64
DROPPED = 0.1  # captions left out, so that guidance has an unconditional side
EVERYTHING = 0.25  # inpainting: pictures masked as a whole
HIDING = 4  # inpainting: how much oftener a mask is drawn that hides an object nearly whole
LOG_SIGMA = 0.3, 1.2  # mean and deviation of the noise levels trained on
HEAVIEST = 10.0  # limit of an error's weight

PLANS = {
    "autoencoder": Plan(steps=5_000, batch=8, rate=2e-3),
    "base": Plan(steps=3_000, batch=32, rate=2e-3),
    "v": Plan(steps=500, batch=32, rate=1e-3),
    "inpaint": Plan(steps=4_600, batch=32, rate=2e-3),
    "depth": Plan(steps=800, batch=32, rate=1e-3),
    "unclip": Plan(steps=2_500, batch=32, rate=2e-3),
    "upscale": Plan(steps=1_600, batch=32, rate=2e-3),
}


def branches_start_at_zero(model: nn.Module) -> None:
    """Zero the last layer of every residual branch, and of the UNet: the network starts as its shortcuts."""
    for name, parameter in model.named_parameters():
        if any(part in f".{name}" for part in (".conv2.", ".proj_out.", ".out_layers.3.", ".out.2.")):
            nn.init.zeros_(parameter)


def autoencoder_loss(
    pictures: np.ndarray, batch: int, model: nn.Module, choices: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """The pixels' loss and a little KL, on random crops."""
    return coding_loss(model, data.to_tensor(crops(pictures, batch, choices)[1]).to(device()), noise)[0]


def coding_loss(model: nn.Module, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """The loss of coding pictures x [B, 3, H, W], and the means of their latents."""
    mean, logvar = model.moments(x)
    z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise, device=mean.device)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return pixel_loss(model.decode(z) - x) + 1e-4 * kl, mean


def crops(
    pictures: np.ndarray, batch: int, choices: np.random.Generator, side: int = CROP
) -> tuple[np.ndarray, np.ndarray]:
    """Random crops, uint8 [batch, side, side, 3], and the pictures' indices before them."""
    places = interesting(pictures, batch, choices, side)
    cut = [pictures[i, y : y + side, x : x + side] for i, y, x in places]
    return np.array([i for i, _, _ in places]), np.stack(cut)


def interesting(
    pictures: np.ndarray, batch: int, choices: np.random.Generator, side: int
) -> list[tuple[int, int, int]]:
    """Random (index, y, x) of crops: of two places in a picture the one in which more happens."""
    corners = choices.integers(0, pictures.shape[1] - side + 1, (batch, 2, 2)).tolist()
    index = choices.integers(0, len(pictures), batch).tolist()

    def happening(place: tuple[int, int, int]) -> float:
        i, y, x = place
        return detail(pictures[i, y : y + side, x : x + side])

    return [max(((i, y, x) for y, x in two), key=happening) for i, two in zip(index, corners, strict=True)]


def detail(crop: np.ndarray) -> float:
    """The mean step between pixels side by side, in grey levels."""
    return float(np.abs(np.diff(crop.astype(np.int16), axis=1)).mean())


def pixel_loss(error: Tensor) -> Tensor:
    """L1 and squared error, and L1 of the gradients: the difference of two gradients is the gradient of the error."""
    across, down = error.diff(dim=3), error.diff(dim=2)
    return error.abs().mean() + 5 * error.square().mean() + across.abs().mean() + down.abs().mean()


@torch.inference_mode()
def psnr(pictures: np.ndarray, model: nn.Module) -> float:
    """Mean PSNR in dB of pictures [N, H, W, 3] encoded, decoded and rounded to 8 bits."""
    errors = []
    for part in np.array_split(pictures, max(1, len(pictures) // 16)):
        decoded = model.decode(model.encode(data.to_tensor(part).to(device()))).clamp(-1, 1).add(1).mul(127.5).round()
        errors.append((decoded.permute(0, 2, 3, 1).cpu() - torch.tensor(part).float()).square().mean((1, 2, 3)))
    return float(10 * torch.log10(255**2 / torch.cat(errors)).mean())


def train_autoencoder(folder: Path, plan: Plan) -> None:
    pictures, _ = data.scenes(folder, SCENES)
    unseen, _ = data.scenes(folder, data.CHECKED, data.UNSEEN)
    torch.manual_seed(plan.seed)
    loss = partial(autoencoder_loss, pictures, plan.batch)
    train(new_autoencoder(AUTOENCODER), loss, plan, folder / "autoencoder.pt", partial(quality, unseen))


def new_autoencoder(spec: AutoencoderSpec) -> AutoencoderKL:
    model = AutoencoderKL(spec).to(memory_format=torch.channels_last)
    branches_start_at_zero(model)
    nn.init.constant_(model.quant_conv.bias[spec.latent_channels :].data, -6)  # hardly any noise at first
    return model


def quality(pictures: np.ndarray, model: nn.Module) -> str:
    return f"PSNR {psnr(pictures, model):.2f} dB"


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """The trained autoencoder, its latents normalised."""
    pictures, _ = data.scenes(folder, SCENES)
    return normalised(AUTOENCODER, averaged(folder / "autoencoder.pt"), pictures[:256])


def normalised(spec: AutoencoderSpec, weights: dict[str, Tensor], pictures: np.ndarray) -> AutoencoderKL:
    """An autoencoder whose latents of `pictures`, times `scale`, have mean 0 and variance 1 per channel."""
    model = AutoencoderKL(spec)
    model.load_state_dict(weights)
    model.to(device(), memory_format=torch.channels_last).eval().requires_grad_(False)
    z = latents.encode(model, 1.0, data.to_tensor(pictures))
    mean, std = z.mean((0, 2, 3)).to(device()), z.std((0, 2, 3)).to(device()) * spec.scale
    if max(mean.abs().max(), (std - 1).abs().max()) < 1e-2:  # unpacked: it is so already, but for float16's rounding
        return model
    into, out, half = model.quant_conv, model.post_quant_conv, spec.latent_channels
    # encode: (z - mean) / std; decode: W (std z + mean) + b; log-variance: - 2 log std
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std[None, :, None, None]
    into.weight[:half] /= std[:, None, None, None]
    into.bias[:half] = (into.bias[:half] - mean) / std
    into.bias[half:] -= 2 * std.log()
    return model


class TextToImage(nn.Module):
    """The denoiser with the text tower that learns beside it."""

    def __init__(self, in_channels: int, spec: UNetSpec = UNET) -> None:
        super().__init__()
        self.unet = UNet(replace(spec, in_channels=in_channels)).to(memory_format=torch.channels_last)
        self.text = OpenCLIPText(TEXT)
        branches_start_at_zero(self.unet)

    def forward(self, x: Tensor, timesteps: Tensor, tokens: Tensor, y: Tensor | None = None) -> Tensor:
        predicted: Tensor = self.unet(x, timesteps, self.text(tokens), y)
        return predicted


def diffusion_loss(
    scenes: latents.Latents,
    batch: int,
    objective: str,
    model: nn.Module,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """`denoising_loss` on random scenes and captions.

    A model with nine input channels also gets the mask and the masked picture's latents, in that order, and masks that
    hide an object oftener than others.
    """
    inpainting = model.unet.spec.in_channels == 9
    chances = torch.where((scenes.hidden > 0.7) & torch.tensor(inpainting), HIDING, 1)
    index = torch.from_numpy(choices.choice(len(chances), batch, p=(chances / chances.sum()).numpy()))
    tokens = captions(scenes.tokens, index, choices)
    t = timesteps(choices, batch)
    concat = []
    if inpainting:
        whole = torch.from_numpy(choices.random(batch) < EVERYTHING)[:, None, None, None]
        concat = [torch.where(whole, 1.0, scenes.masks[index]), torch.where(whole, scenes.grey, scenes.masked[index])]
    return denoising_loss(model, scenes.pictures[index], t, tokens, objective, noise, concat=concat)


def captions(tokens: Tensor, index: Tensor, choices: np.random.Generator, dropped: float = DROPPED) -> Tensor:
    """One wording for each scene of `index`, of tokens [N, captions, 77]: int64 [B, 77], some of them left out."""
    chosen = tokens[index, torch.from_numpy(choices.integers(0, tokens.shape[1], len(index)))]
    return torch.where(torch.from_numpy(choices.random(len(index)) < dropped)[:, None], latents.tokens_of(""), chosen)


def denoising_loss(
    model: nn.Module,
    x0: Tensor,
    t: Tensor,
    tokens: Tensor,
    objective: str,
    noise: torch.Generator,
    *,
    concat: Sequence[Tensor] = (),
    y: Tensor | None = None,
    schedule: NoiseSchedule = SCHEDULE,
) -> Tensor:
    """Mean squared error of the predicted noise, or velocity (arXiv:2006.11239, 2202.00512), at timesteps t [B].

    An error in the noise counts by what it does to the velocity, (1 + sigma^2) |eps - eps'|^2, up to a limit.
    concat: [B, C, h, w], inputs beside the noisy latents of x0 [B, 4, h, w]; y: class condition.
    """
    where = device()
    a = schedule.alphas_cumprod[t].float().to(where)[:, None, None, None]
    x0, eps = x0.to(where), torch.randn(x0.shape, generator=noise, device=where)
    target = eps if objective == "epsilon" else a.sqrt() * eps - (1 - a).sqrt() * x0
    inputs = [a.sqrt() * x0 + (1 - a).sqrt() * eps, *(extra.to(where) for extra in concat)]
    x = torch.cat(inputs, dim=1).contiguous(memory_format=torch.channels_last)
    predicted = model(x, t.to(where), tokens.to(where), None if y is None else y.to(where))
    error = (predicted - target).square().mean((1, 2, 3))
    weight = (1 / a).clamp(max=HEAVIEST).flatten() if objective == "epsilon" else torch.ones_like(error)
    return (weight * error).mean()


def timesteps(
    choices: np.random.Generator,
    count: int,
    schedule: NoiseSchedule = SCHEDULE,
    log_sigma: tuple[float, float] = LOG_SIGMA,
) -> Tensor:
    """int64 [count]: those whose sigma = sqrt((1 - a) / a) lies nearest above draws of a log-normal.

    Most are drawn around the noise level where shapes are decided (arXiv:2206.00364, table 1).
    """
    sigmas = schedule.sigmas.float()
    quantiles = (choices.permutation(count) + choices.random(count)) / count  # one draw from each of `count` parts
    mean, deviation = log_sigma
    drawn = torch.exp(mean + deviation * torch.special.ndtri(torch.from_numpy(quantiles))).float()
    return torch.searchsorted(sigmas, drawn).clamp(max=len(sigmas) - 1)


def train_diffusion(name: str, folder: Path, plan: Plan) -> None:
    autoencoder = load_autoencoder(folder)
    scenes = latents.load(folder, autoencoder, AUTOENCODER.scale, SCENES)
    torch.manual_seed(plan.seed)
    inpainting = name == "inpaint"
    model = TextToImage(SPECS["v2-inpaint"].unet.in_channels if inpainting else UNET.in_channels)
    if before := predecessor(name, folder):
        resume(model, averaged(before), torch.cat([torch.ones(1), scenes.grey.mean((0, 2, 3))]))
    model.text.requires_grad_(before is None)  # one text tower for all that are made from a base
    objective = "v_prediction" if name == "v" else "epsilon"
    train(model, partial(diffusion_loss, scenes, plan.batch, objective), plan, folder / f"{name}.pt")


def predecessor(name: str, folder: Path) -> Path | None:
    """The state that the phase `name` goes on from: the base (for `unclip` the v model), or a file laid out by
    `training.unpack`."""
    before, unpacked = folder / ("v.pt" if name == "unclip" else "base.pt"), folder / "start.pt"
    if name == "base":
        return unpacked if unpacked.exists() else None
    order = (unpacked, before) if name == "inpaint" else (before, unpacked)
    return next((path for path in order if path.exists()), before)


def resume(model: nn.Module, weights: dict[str, Tensor], hidden: Tensor) -> None:
    """Load weights whose first convolution may have other inputs: either way, the network starts as it was.

    Inputs that the weights lack start at zero. Mask and masked latents, where the model has none, go into the bias as
    they are when everything is masked: `hidden` [5].
    """
    name = "unet.input_blocks.0.0"
    old, new = weights[f"{name}.weight"], torch.zeros_like(model.state_dict()[f"{name}.weight"])
    shared = min(new.shape[1], old.shape[1])
    new[:, :shared] = old[:, :shared]
    constant = torch.einsum("oihw,i->o", old[:, shared:], hidden[: old.shape[1] - shared].to(old))
    model.load_state_dict({**weights, f"{name}.weight": new, f"{name}.bias": weights[f"{name}.bias"] + constant})


def phases() -> dict[str, Callable[[Path, Plan], None]]:
    """How to train each of PLANS."""
    from . import depth_phase as depth, unclip_phase as unclip, upscale_phase as upscale  # these build on this file

    return {
        "autoencoder": train_autoencoder,
        "base": partial(train_diffusion, "base"),
        "v": partial(train_diffusion, "v"),
        "inpaint": partial(train_diffusion, "inpaint"),
        "depth": depth.train_depth,
        "unclip": unclip.train_unclip,
        "upscale": upscale.train_upscale,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=PLANS)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--steps", type=int, help="instead of those of the plan")
    arguments = parser.parse_args()
    plan = PLANS[arguments.phase]
    phases()[arguments.phase](arguments.folder, replace(plan, steps=arguments.steps or plan.steps))


if __name__ == "__main__":
    main()
