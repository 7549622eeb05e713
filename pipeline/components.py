"""The parts of a loaded checkpoint: the objects on the wires outside ComfyUI."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from ..models.specs import AutoencoderSpec, ModelSpec, Prediction
from ..samplers import NoiseSchedule
from .progress import progress
from .tiling import tiled
from .types import Conditioning
from .unclip import ImageEmbedding

if TYPE_CHECKING:  # open_clip takes seconds to import
    from ..models.autoencoder import AutoencoderKL
    from ..models.changes import Change
    from ..models.clip_image import ImageTower
    from ..models.clip_text import TextTower
    from ..models.midas import DPTHybrid
    from ..models.noise_augmentation import NoiseAugmentation
    from ..models.prompt import Chunk
    from ..models.unet import UNet

LARGE = 1536 * 1536  # pixels: beyond, the autoencoder's activations (some 2 kB a pixel) are computed in tiles
Network = Callable[[Tensor], Tensor]
Changed = TypeVar("Changed", bound=nn.Module)


def compute_device() -> torch.device:
    """Where networks run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(module: nn.Module) -> torch.dtype:
    """What a network computes in unless told otherwise.

    That is float32 on a CPU and the file's own on a GPU; but attention of 2.x overflows float16, so there bfloat16
    takes its place where the GPU has it.
    """
    if compute_device().type == "cpu":
        return torch.float32
    stored = next(module.parameters()).dtype
    return torch.bfloat16 if stored == torch.float16 and torch.cuda.is_bf16_supported() else stored


def to_device(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Move a network to where it computes, and to `dtype` or, for None, to the one that suits the device.

    Converting now and not when loading keeps loading as small as the file.
    """
    module.to(device=compute_device(), dtype=dtype or compute_dtype(module))


def with_changes(network: Changed, changes: tuple[Change, ...], dtype: torch.dtype | None) -> Changed:
    """Return a network with changes of its weights, computed in its dtype; without any, the network itself."""
    if not changes:
        return network
    from ..models.changes import changed

    return changed(network, changes, dtype or compute_dtype(network), compute_device())


@dataclass(frozen=True)
class VAE:
    """The object on a VAE wire. Images are float [B, H, W, 3] in 0..1, latents [B, 4, h, w] unscaled."""

    autoencoder: AutoencoderKL
    spec: AutoencoderSpec
    dtype: torch.dtype = torch.float32

    @property
    def downscale_ratio(self) -> int:
        return self.spec.factor

    def spacial_compression_encode(self) -> int:
        return self.spec.factor

    def spacial_compression_decode(self) -> int:
        return self.spec.factor

    def encode(self, pixels: Tensor) -> Tensor:
        """The mode of the posterior, without noise."""
        if pixels.shape[1] * pixels.shape[2] <= LARGE:
            try:
                return self._run(self.autoencoder.encode, self._prepare(pixels))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        return self.encode_tiled(pixels)

    def decode(self, samples: Tensor) -> Tensor:
        if samples.shape[2] * samples.shape[3] * self.spec.factor**2 <= LARGE:
            try:
                return _to_pixels(self._run(self.autoencoder.decode, samples))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        return self.decode_tiled(samples)

    def encode_tiled(self, pixels: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64) -> Tensor:
        """Sizes in pixels."""
        factor = self.spec.factor
        tile_x, tile_y, overlap = (size // factor * factor for size in (tile_x, tile_y, overlap))
        return self._run_tiled(self.autoencoder.encode, self._prepare(pixels), (tile_y, tile_x), overlap, 1 / factor)

    def decode_tiled(self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 8) -> Tensor:
        """Sizes in latent pixels."""
        x = self._run_tiled(self.autoencoder.decode, samples, (tile_y, tile_x), overlap, self.spec.factor)
        return _to_pixels(x)

    def _prepare(self, pixels: Tensor) -> Tensor:
        """BHWC in 0..1 -> BCHW in -1..1, cut around the center to multiples of the factor as ComfyUI's VAE does."""
        x = pixels[..., :3].float().movedim(-1, 1) * 2 - 1
        height, width = (length // self.spec.factor * self.spec.factor for length in x.shape[2:])
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        return x[:, :, top : top + height, left : left + width]

    @torch.no_grad()
    def _run(self, network: Network, x: Tensor) -> Tensor:
        """One image at a time: activations at full resolution are what fills the memory."""
        to_device(self.autoencoder, self.dtype)
        weight = self.autoencoder.quant_conv.weight
        return torch.cat([network(item.to(weight)).float().cpu() for item in x[:, None]])

    def _run_tiled(self, network: Network, x: Tensor, tile: tuple[int, int], overlap: int, scale: float) -> Tensor:
        def run(part: Tensor) -> Tensor:
            return self._run(network, part)

        return tiled(run, x.cpu(), tile=tile, overlap=overlap, scale=scale, progress=progress)


def _to_pixels(x: Tensor) -> Tensor:
    """BCHW in -1..1 -> BHWC in 0..1."""
    return ((x + 1) / 2).clamp(0, 1).movedim(1, -1)


@dataclass(frozen=True)
class CLIP:
    """The object on a CLIP wire: the text tower of one checkpoint."""

    tower: TextTower  # as the file has it
    dtype: torch.dtype | None = None
    embeddings: tuple[Path, ...] = ()  # folders with textual-inversion files
    stop: int | None = None  # the layer that is read, from -1, the last, backwards; None for the model's own
    changes: tuple[Change, ...] = ()  # of LoRA files and merges

    def tokenize(self, text: str) -> list[Chunk]:
        from ..models import prompt
        from ..models.textual_inversion import Embeddings

        spec = self.tower.spec
        return prompt.tokenize(text, spec.pad_token, Embeddings(self.embeddings, spec))

    @torch.no_grad()
    def encode_from_tokens_scheduled(self, tokens: list[Chunk]) -> Conditioning:
        """One entry: float32 [1, 77 * chunks, D] and no options."""
        from ..models import prompt

        to_device(self.changed_tower, self.dtype)
        return [[prompt.encode(self.changed_tower, tokens, self.stop).cpu(), {}]]

    @cached_property
    def changed_tower(self) -> TextTower:
        """The text tower with the changes."""
        return with_changes(self.tower, self.changes, self.dtype)

    def with_stop(self, stop: int) -> CLIP:
        """Read another layer: -1 is the last, -2 the one before it."""
        layers = self.tower.full_depth
        if -stop > layers:
            logging.getLogger("sd2_family").warning(
                f"stop_at_clip_layer is {stop}, but the text encoder has {layers} layers; its last layer is read"
            )
        return replace(self, stop=stop)


@dataclass(frozen=True)
class CLIPVision:
    """The object on a CLIP_VISION wire: the image tower of an unCLIP checkpoint or of a file of its own."""

    tower: ImageTower
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def encode_image(self, image: Tensor, crop: bool = True) -> ImageEmbedding:
        """[B, H, W, 3] in 0..1 -> float32 [B, D]; crop: see only the middle square, else the whole image, squeezed."""
        from ..models.clip_image import preprocess

        to_device(self.tower, self.dtype)
        pixels = preprocess(image.to(compute_device()), self.tower.spec.image_size, crop=crop)
        return ImageEmbedding(self.tower(pixels.to(self.tower.dtype)).float().cpu())


@dataclass(frozen=True)
class DepthModel:
    """The object on a depth model's wire. It computes in float32: a map is made once, and its contrast stretched."""

    network: DPTHybrid

    @torch.no_grad()
    def estimate(self, image: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 -> inverse depth float32 [B, h, w], 0 or more, of any scale."""
        device = self.place()
        pixels = image.movedim(-1, 1) * 2 - 1  # BHWC -> BCHW
        return torch.cat([self.network.estimate(one.to(device)).cpu() for one in pixels[:, None]])

    def place(self) -> torch.device:
        """Move the network to where it computes."""
        to_device(self.network, torch.float32)
        return compute_device()


@dataclass(frozen=True)
class NoTextEncoder:
    """On the CLIP wire of a checkpoint without a text encoder: raises where it is used."""

    name: str  # the file's

    def tokenize(self, text: str) -> NoReturn:
        raise ValueError(f"{self.name} has no text encoder; connect one from Load CLIP, or load a whole checkpoint")

    def encode_from_tokens_scheduled(self, tokens: list[Chunk]) -> NoReturn:
        self.tokenize("")

    def with_stop(self, stop: int) -> NoReturn:
        self.tokenize("")


@dataclass(frozen=True)
class NoAutoencoder:
    """On the VAE wire of a checkpoint without an autoencoder: raises where it is used."""

    name: str  # the file's

    def encode(self, pixels: Tensor) -> NoReturn:
        raise ValueError(
            f"{self.name} has no autoencoder (VAE); connect one from Load VAE, or load a whole checkpoint"
        )

    def decode(self, samples: Tensor) -> NoReturn:
        self.encode(samples)

    def decode_tiled(self, samples: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 8) -> NoReturn:
        self.encode(samples)

    def spacial_compression_encode(self) -> NoReturn:
        self.encode(torch.empty(0))

    def spacial_compression_decode(self) -> NoReturn:
        self.encode(torch.empty(0))


@dataclass(frozen=True)
class NoImageEncoder:
    """On the CLIP_VISION wire of a checkpoint without an image encoder: raises where it is used."""

    name: str  # the file's

    def encode_image(self, image: Tensor, crop: bool = True) -> NoReturn:
        raise ValueError(f"{self.name} has no image encoder; unCLIP needs sd21-unclip-h or sd21-unclip-l")


@dataclass(frozen=True)
class NoDepthModel:
    """On the depth model's wire of a checkpoint without one: raises where it is used."""

    name: str  # the file's

    def estimate(self, image: Tensor) -> NoReturn:
        raise ValueError(
            f"{self.name} has no depth estimator; load 512-depth-ema, or connect a depth map made elsewhere to "
            "SD2 Depth Conditioning"
        )


@dataclass(frozen=True)
class Model:
    """The object on a MODEL wire."""

    name: str  # the file's, for messages
    spec: ModelSpec
    prediction: Prediction
    schedule: NoiseSchedule
    unet: UNet
    vae: (
        VAE | NoAutoencoder
    )  # of the same file: it encodes what an inpainting model gets where the conditioning has no mask
    dtype: torch.dtype | None = None
    noise_augmentation: NoiseAugmentation | None = None  # of an unCLIP model
    changes: tuple[Change, ...] = ()  # of LoRA files and merges, to the UNet
    differential: float | None = None  # the strength of Differential Diffusion, None without it
    mean_of_images: bool = True  # an unCLIP model gets the weighted mean of several images, not their sum

    @property
    def augmentation(self) -> NoiseAugmentation:
        """The noise augmentation of an unCLIP model."""
        if self.noise_augmentation is None:
            raise ValueError(f"{self.name} has no noise augmentation; load sd21-unclip-h or sd21-unclip-l")
        return self.noise_augmentation

    @cached_property
    def changed_unet(self) -> UNet:
        """The UNet with the changes."""
        return with_changes(self.unet, self.changes, self.dtype)

    def placed(self) -> Model:
        """Return the model with the changes in its UNet, which is where it computes."""
        to_device(self.changed_unet, self.dtype)
        return replace(self, unet=self.changed_unet, changes=())


class Loaded(NamedTuple):
    """The outputs of SD2 Load Checkpoint, in their order."""

    model: Model
    clip: CLIP | NoTextEncoder
    vae: VAE | NoAutoencoder
    clip_vision: CLIPVision | NoImageEncoder
    depth_model: DepthModel | NoDepthModel
    report: str


def load(
    path: Path,
    prediction: Literal["auto"] | Prediction = "auto",
    dtype: torch.dtype | None = None,
    embeddings: tuple[Path, ...] = (),
) -> Loaded:
    """Load a checkpoint file or a diffusers folder; dtype None leaves the choice to `to_device`.

    embeddings: folders with the textual-inversion files that prompts can name.
    """
    from ..models import checkpoint

    file = checkpoint.load_checkpoint(path, prediction=prediction)
    spec = file.spec
    vae = (
        VAE(file.autoencoder, spec.autoencoder, dtype or torch.float32)
        if file.autoencoder
        else NoAutoencoder(path.name)
    )
    schedule = NoiseSchedule(
        beta_start=spec.beta_start, beta_end=spec.beta_end, zero_terminal_snr=file.inspection.zero_terminal_snr
    )
    return Loaded(
        model=Model(path.name, spec, file.prediction, schedule, file.unet, vae, dtype, file.noise_augmentation),
        clip=CLIP(file.text, dtype, embeddings) if file.text else NoTextEncoder(path.name),
        vae=vae,
        clip_vision=CLIPVision(file.image, dtype or torch.float32) if file.image else NoImageEncoder(path.name),
        depth_model=DepthModel(file.depth) if file.depth else NoDepthModel(path.name),
        report=file.report,
    )


def load_vae(path: Path) -> VAE:
    """Load an autoencoder from a file of its own; it computes in float32."""
    from ..models.autoencoder_file import load_autoencoder

    return VAE(*load_autoencoder(path))


def load_text_encoder(path: Path, embeddings: tuple[Path, ...] = ()) -> CLIP:
    """Load a text encoder from a file of its own; embeddings: folders with textual-inversion files."""
    from ..models import text_file

    return CLIP(text_file.load_text_encoder(path), embeddings=embeddings)


def load_image_encoder(path: Path) -> CLIPVision:
    """Load CLIP's image encoder from a file of its own; it computes in float32."""
    from ..models import image_file

    return CLIPVision(image_file.load_image_encoder(path))
