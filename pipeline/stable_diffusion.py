"""The Python entry: a loaded checkpoint with one method per task, PIL images in and out.

Each method is the shipped workflow of its task: it calls the functions that the nodes call, in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Unpack

from ..models.specs import Condition
from ..samplers import SAMPLERS, SCHEDULERS
from . import depth, images, inpaint, latents, masks, pil, unclip, upscale
from .apply_lora import apply_lora
from .blend import composite, match_mean
from .checks import NEEDS
from .components import Loaded
from .crop import Window, crop, stitch_all
from .denoiser import batch_contexts
from .progress import Reporter, reporting
from .sample import sample, sample_latent
from .types import Conditioning, Latent, Sampling, with_options

ImageLike = Image.Image | Path | str | Tensor
"""A PIL image, a path, or a tensor [H, W, 3] or [B, H, W, 3] in 0..1 (masks: [H, W] or [B, H, W])."""
Prompt = str | Sequence[str]
Images = Callable[[Sampling], Tensor]
RANDOM_SEEDS = 2**32
INPAINT_CFG = 4.0  # of the inpainting workflows: a higher one shifts colors along the edge of the mask
INNER_STEPS = 3  # of checkpoints without inpainting channels


class Settings(TypedDict, total=False):
    """Keyword arguments of every task.

    seed: random unless given, and returned with the result. sampler, scheduler: names of `samplers.SAMPLERS` and
    `SCHEDULERS`. eta: fresh noise of ddim. inner_steps: Langevin steps before each step inside a mask, for checkpoints
    without inpainting channels. progress: called with (steps done, steps in all); it may raise to stop.
    """

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    eta: float
    cfg_rescale: float
    inner_steps: int
    progress: Reporter


@dataclass(frozen=True)
class Result:
    """Generated images, and what it takes to generate them again."""

    images: list[Image.Image]
    seed: int
    seconds: float

    @property
    def image(self) -> Image.Image:
        """The first image."""
        return self.images[0]


@dataclass(frozen=True)
class StableDiffusion:
    """A loaded checkpoint. Several prompts make a batch: one image each, image i from the i-th draw of the seed."""

    loaded: Loaded

    @property
    def name(self) -> str:
        """The file's name."""
        return self.loaded.model.name

    @property
    def report(self) -> str:
        """What the file is, and why."""
        return self.loaded.report

    def with_lora(
        self, path: Path | str, strength: float = 1.0, *, text_strength: float | None = None
    ) -> StableDiffusion:
        """Return the model with the changes of a LoRA file, on top of those it has; this one stays as it is.

        strength: of the changes, negative to invert them. text_strength: those of the text encoder, by default the
        same.
        """
        text = strength if text_strength is None else text_strength
        model, clip = apply_lora(Path(path), self.loaded.model, self.loaded.clip, strength, text)
        return replace(self, loaded=self.loaded._replace(model=model, clip=clip or self.loaded.clip))

    def text_to_image(
        self,
        prompt: Prompt,
        negative_prompt: str = "",
        *,
        width: int = 0,
        height: int = 0,
        **settings: Unpack[Settings],
    ) -> Result:
        """Generate an image from a prompt; width and height are multiples of 8, or 0 for the model's own size."""
        width, height = width or self._size, height or self._size
        if width % 8 or height % 8:
            raise ValueError(f"{width} x {height} is not a multiple of 8; choose a size that is")
        positive, negative = self._encode(prompt), self._encode(negative_prompt)

        def generate(sampling: Sampling) -> Tensor:
            empty = torch.zeros(len(positive[0][0]), 4, height // 8, width // 8)
            return self._sample(sampling, positive, negative, {"samples": empty})

        return _timed(generate, settings)

    def image_to_image(
        self,
        image: ImageLike,
        prompt: Prompt,
        negative_prompt: str = "",
        *,
        denoise: float = 0.6,
        width: int = 0,
        height: int = 0,
        **settings: Unpack[Settings],
    ) -> Result:
        """Change an image by a prompt. denoise: how much, 0..1. width, height: its size, 0 to keep its own."""
        pixels = _scaled(_image(image), width, height)
        positive, negative = self._encode(prompt), self._encode(negative_prompt)

        def generate(sampling: Sampling) -> Tensor:
            return self._sample(sampling, positive, negative, self._latent(pixels, len(positive[0][0])))

        return _timed(generate, settings, denoise)

    def inpaint(
        self,
        image: ImageLike,
        mask: ImageLike,
        prompt: Prompt,
        negative_prompt: str = "",
        *,
        grow: int = 0,
        blur: int = 0,
        fill: str = "original",
        keep_unmasked: bool = True,
        color_match: bool = False,
        denoise: float = 1.0,
        blend: str = "membrane",
        context: float = 0.0,
        context_px: int = 0,
        threshold: float = 0.5,
        **settings: Unpack[Settings],
    ) -> Result:
        """Repaint an image where the mask is white; an image of any size. Pixels outside the mask keep their bits.

        grow: enlarge the mask by so many pixels. fill: what the masked area starts from where denoise is below 1:
        original, grey, noise or surroundings. keep_unmasked: hold the rest fixed while sampling. color_match: correct
        the colors by comparing both images outside the mask. blend: how the edge is hidden: membrane, feather or none;
        the first two fade over `blur` pixels inside the mask. context: crop the mask's surroundings, this many times
        as large as the mask and context_px wider, to the model's own size; 0 repaints in the whole image. threshold:
        of the mask; 0 keeps it soft, and gray repaints the later the darker it is. cfg is 4 unless given, and
        inner_steps 3 for checkpoints without inpainting channels.
        """
        condition = self.loaded.model.spec.condition
        if condition == "upscale":
            self._require("inpaint")
        pixels = _image(image)
        where, edge = masks.preprocess(_mask(mask), _size(pixels), level=threshold, grow_px=grow, blur_px=blur)
        positive, negative = self._encode(prompt), self._encode(negative_prompt)

        def painted(sampling: Sampling, pixels: Tensor, where: Tensor) -> Tensor:
            options, latent = inpaint.encode(self.loaded.vae, pixels, where, fill, keep_unmasked)
            options = options if condition == "inpaint" else {}
            latent["samples"] = images.fit_batch(latent["samples"], max(len(positive[0][0]), len(latent["samples"])))
            sides = with_options(positive, options), with_options(negative, options)
            if condition == "depth":
                shown = depth.options(depth.estimate(self.loaded.depth_model, pixels), *latent["samples"].shape[-2:])
                sides = with_options(sides[0], shown), with_options(sides[1], shown)
            return self._sample(sampling, *sides, latent)

        def generate(sampling: Sampling) -> Tensor:
            if context == 0:
                return composite(pixels, painted(sampling, pixels, where), edge, color_match=color_match, blend=blend)
            window = Window(size=(self._size, self._size), factor=context, margin=context_px)
            (cut,) = crop(pixels, where, window, blend_mask=edge)
            repainted = painted(sampling, cut.image, cut.mask)
            return stitch_all([cut.stitch], [repainted], color_match=color_match, blend=blend)[0]

        inner_steps = 0 if condition == "inpaint" else INNER_STEPS
        return _timed(generate, {"cfg": INPAINT_CFG, "inner_steps": inner_steps, **settings}, denoise)

    def variations(
        self,
        image: ImageLike | Sequence[ImageLike],
        prompt: str = "",
        negative_prompt: str = "",
        *,
        weights: Sequence[float] = (),
        noise_level: int = 0,
        mix_noise_level: int = unclip.MIX_LEVEL,
        noise_seed: int = 1,
        width: int = 0,
        height: int = 0,
        **settings: Unpack[Settings],
    ) -> Result:
        """Generate a variation of an image, or of a weighted mix of several, with an unCLIP checkpoint.

        noise_level: on each image's embedding, 0..1000, from noise_seed, noise_seed + 1, ...; more gives freer
        variations. mix_noise_level: on the mix of several.
        """
        self._require("unclip")
        given: Sequence[ImageLike] = [image] if isinstance(image, (Image.Image, Path, str, Tensor)) else image
        if weights and len(weights) != len(given):
            raise ValueError(f"there are {len(weights)} weights for {len(given)} images; give one weight for each")
        width, height = width or self._size, height or self._size
        positive, negative = self._encode(prompt), self._encode(negative_prompt)

        def generate(sampling: Sampling) -> Tensor:
            conditioning = positive
            for index, (one, weight) in enumerate(zip(given, weights or [1.0] * len(given), strict=True)):
                output = self.loaded.clip_vision.encode_image(_image(one), crop=True)
                conditioning = unclip.with_image(
                    conditioning,
                    output,
                    weight=weight,
                    level=noise_level,
                    seed=noise_seed + index,
                    mix_level=mix_noise_level,
                )
            empty = torch.zeros(1, 4, height // 8, width // 8)
            return self._sample(sampling, conditioning, negative, {"samples": empty})

        return _timed(generate, settings)

    def depth_to_image(
        self,
        image: ImageLike,
        prompt: Prompt,
        negative_prompt: str = "",
        *,
        depth_map: ImageLike | None = None,
        denoise: float = 0.9,
        width: int = 0,
        height: int = 0,
        **settings: Unpack[Settings],
    ) -> Result:
        """Change an image by a prompt and keep its depth, with the depth checkpoint.

        depth_map: near bright, far dark; estimated from the image unless given. denoise 1 keeps nothing but the depth.
        """
        self._require("depth")
        pixels = _scaled(_image(image), width, height)
        positive, negative = self._encode(prompt), self._encode(negative_prompt)

        def generate(sampling: Sampling) -> Tensor:
            shown = depth.estimate(self.loaded.depth_model, pixels) if depth_map is None else _image(depth_map)
            latent = self._latent(pixels, len(positive[0][0]))
            options = depth.options(shown, *latent["samples"].shape[-2:])
            return self._sample(sampling, with_options(positive, options), with_options(negative, options), latent)

        return _timed(generate, settings, denoise)

    def upscale(
        self,
        image: ImageLike,
        prompt: Prompt = "",
        negative_prompt: str = "",
        *,
        noise_level: int = 20,
        noise_seed: int = 1,
        color_match: bool = True,
        **settings: Unpack[Settings],
    ) -> Result:
        """Upscale an image 4 times with the x4 checkpoint.

        noise_level: on the image, 0..350, from noise_seed; more invents more detail. color_match: keep its mean color.
        """
        self._require("upscale")
        pixels = _image(image)
        positive, negative = self._encode(prompt), self._encode(negative_prompt)

        def generate(sampling: Sampling) -> Tensor:
            options, latent = upscale.encode(pixels, noise_level, noise_seed)
            sides = with_options(positive, options), with_options(negative, options)
            large = self._sample(sampling, *sides, latent)
            return match_mean(large, pixels) if color_match else large

        return _timed(generate, settings)

    @property
    def _size(self) -> int:
        return self.loaded.model.spec.size

    def _require(self, condition: Condition) -> None:
        spec = self.loaded.model.spec
        if spec.condition != condition:
            raise ValueError(
                f"{self.name} is a checkpoint for {spec.task} (kind {spec.kind}); load one of kind "
                f"{NEEDS[condition].kinds}"
            )

    def _encode(self, prompt: Prompt) -> Conditioning:
        """One entry: [B, T, D] for B prompts, the shorter ones repeated."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("there is no prompt; give at least one")
        clip = self.loaded.clip
        with torch.inference_mode():
            contexts = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in prompts]
        return [[batch_contexts(contexts), {}]]

    @torch.inference_mode()
    def _latent(self, pixels: Tensor, count: int) -> Latent:
        """Encode images of any size, padded to multiples of 8, as a batch of at least `count`."""
        samples = self.loaded.vae.encode(images.pad(pixels, 8))
        samples = images.fit_batch(samples, max(count, len(samples)))
        return {"samples": samples, "sd2_size": _size(pixels)}

    def _sample(self, sampling: Sampling, positive: Conditioning, negative: Conditioning, latent: Latent) -> Tensor:
        """Sample and decode: images [B, H, W, 3]."""
        model, vae = self.loaded.model, self.loaded.vae
        return latents.decode(vae, sample_latent(sample, model, sampling, positive, negative, latent))


def _timed(generate: Images, settings: Settings, denoise: float = 1.0) -> Result:
    """Run a task with its settings, without gradients, under its progress callback."""
    sampling = _sampling(settings, denoise)
    started = time.perf_counter()
    with torch.inference_mode(), reporting(settings.get("progress")):
        found = generate(sampling)
    return Result([pil.to_pil(one) for one in found], sampling.seed, time.perf_counter() - started)


def _sampling(settings: Settings, denoise: float) -> Sampling:
    if unknown := set(settings) - set(Settings.__annotations__):
        known = ", ".join(Settings.__annotations__)
        raise TypeError(f"there is no setting {', '.join(sorted(unknown))}; the settings are {known}")
    sampling = Sampling(
        seed=settings["seed"] if "seed" in settings else int(torch.randint(RANDOM_SEEDS, ())),
        steps=settings.get("steps", 30),
        cfg=settings.get("cfg", 7.5),
        sampler_name=settings.get("sampler", "ddim"),
        scheduler=settings.get("scheduler", "ldm"),
        denoise=denoise,
        eta=settings.get("eta", 0.0),
        cfg_rescale=settings.get("cfg_rescale", 0.0),
        inner_steps=settings.get("inner_steps", 0),
    )
    if sampling.sampler_name not in SAMPLERS:
        raise ValueError(f"sampler is {sampling.sampler_name!r}; choose one of {', '.join(SAMPLERS)}")
    if sampling.scheduler not in SCHEDULERS:
        raise ValueError(f"scheduler is {sampling.scheduler!r}; choose one of {', '.join(SCHEDULERS)}")
    return sampling


def _image(image: ImageLike) -> Tensor:
    """[B, H, W, 3] in 0..1."""
    if isinstance(image, Tensor):
        return images.normalize(image if image.ndim == 4 else image[None])
    return (pil.from_pil([image]) if isinstance(image, Image.Image) else pil.load(Path(image)))[0]


def _mask(mask: ImageLike) -> Tensor:
    """[B, H, W] in 0..1, white to repaint: the brightness of an image, or its transparency where it has any."""
    if isinstance(mask, Tensor):
        return mask
    pixels, transparency = pil.from_pil([mask]) if isinstance(mask, Image.Image) else pil.load(Path(mask))
    return transparency if transparency.any() else pixels.mean(-1)


def _size(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[2]


def _scaled(pixels: Tensor, width: int, height: int) -> Tensor:
    return images.scale(pixels, width, height, crop=True)
