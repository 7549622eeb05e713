"""The MODEL of a checkpoint: a ModelPatcher around our UNet in ComfyUI's BaseModel.

ComfyUI casts, patches and streams only layers of its own classes, and finds layers for LoRAs and ControlNets by its
own names for the UNet's sizes. So the UNet's layers become ComfyUI's while on meta, and its spec is translated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.supported_models
import torch
from torch import Tensor, nn

from ...models.autoencoder import AutoencoderKL
from ...models.checkpoint import Checkpoint
from ...models.hooks import Control
from ...models.latent_rgb import latent_rgb
from ...models.specs import ModelSpec, UNetSpec
from ...models.unet import UNet
from ...pipeline import checks, depth, inpaint, unclip, upscale
from ...pipeline.components import NoAutoencoder

Patcher = Any  # a comfy.model_patcher.ModelPatcher, the object on a MODEL wire
Comfy = Any  # any other object of ComfyUI's

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
LEAVES = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)


class ComfyUNet(UNet):
    """Our UNet with ComfyUI's wrappers around its forward pass."""

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control: Control | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **extra: object,
    ) -> Tensor:
        extension = comfy.patcher_extension
        wrappers = extension.get_all_wrappers(extension.WrappersMP.DIFFUSION_MODEL, transformer_options or {})
        executor = extension.WrapperExecutor.new_class_executor(super().forward, self, wrappers)
        out: Tensor = executor.execute(x, timesteps, context, y, control, transformer_options, **extra)
        return out


def retype(module: nn.Module, ops: Comfy) -> None:
    """Change a module's layers to ComfyUI's classes, whose weights it can cast, patch and stream."""
    if isinstance(module, UNet):
        module.__class__ = ComfyUNet
    ops = ops or comfy.ops.disable_weight_init
    for leaf in module.modules():
        if type(leaf) in LEAVES:
            leaf.__class__ = getattr(ops, type(leaf).__name__)


def patcher_class(disable_dynamic: bool) -> Comfy:
    plain = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def archive_dtypes(module: nn.Module) -> None:
    """Record the dtypes of the weights for ComfyUI versions that stream them."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(module)


def build_model(file: Checkpoint, weights: torch.dtype, compute: torch.dtype | None, disable_dynamic: bool) -> Patcher:
    """Build a ModelPatcher around our UNet in ComfyUI's BaseModel."""
    config = _config(file.kind)(_unet_config(file.spec.unet))
    config.set_inference_dtype(weights, compute)
    config.sampling_settings["zsnr"] = file.inspection.zero_terminal_snr
    model = _base_model(file.spec, config)
    model.diffusion_model = file.unet.to(weights)
    model.sd2_name, model.sd2_spec = file.inspection.name, file.spec
    if colors := latent_rgb(file.inspection.metadata):
        model.latent_format.latent_rgb_factors = [list(row) for row in colors.factors]
        model.latent_format.latent_rgb_factors_bias = list(colors.bias)
    if file.spec.condition == "inpaint":
        model.set_inpaint()
        model.blank_inpaint_image_like = _blank_image(file)
    if file.spec.condition != "upscale":
        model.encode_adm = _class_condition(file)
    archive_dtypes(model.diffusion_model)
    management = comfy.model_management
    patcher = patcher_class(disable_dynamic)(
        model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    if file.spec.condition == "upscale":
        sample_in_tiles(patcher)
    return patcher


class Denoiser(comfy.model_base.BaseModel):
    """ComfyUI's model with the depth map of our conditioning as an input."""

    def concat_cond(self, **options: Any) -> Tensor | None:  # noqa: ANN401  all options of the conditioning
        if options.get("concat_depth") is not None:
            return depth.channel(options, options["noise"]).to(options["device"])
        inpaint: Tensor | None = super().concat_cond(**options)
        return inpaint


class Upscaler(comfy.model_base.SD_X4Upscaler):
    """ComfyUI's x4 upscaler, with the image noised by the seed of SD2 Upscale Conditioning if it was used."""

    def extra_conds(self, **options: Any) -> dict[str, Any]:  # noqa: ANN401  all options of the conditioning
        checks.check_condition(self.sd2_name, self.sd2_spec, [[None, options]], allow=("inpaint",))
        conds: dict[str, Any] = super().extra_conds(**options)
        if "noise_augmentation_seed" in options:
            image, level = upscale.condition(options, options["noise"])
            conds["c_concat"] = comfy.conds.CONDNoiseShape(image.to(options["device"]))
            conds["y"] = comfy.conds.CONDRegular(level.to(options["device"]))
        return conds

    def memory_required(self, input_shape: Sequence[int], *args: Any, **options: Any) -> float:  # noqa: ANN401
        """Return the memory required, which for a large image is that of one tile."""
        needed: float = super().memory_required(upscale.largest_part(input_shape), *args, **options)
        return needed


def sample_in_tiles(model: Patcher) -> None:
    """Make an upscaler compute large images in tiles, with any sampler."""
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    if not model.get_wrappers(kind, "sd2_tiles"):
        model.add_wrapper_with_key(kind, "sd2_tiles", _in_tiles)


def _in_tiles(network: Callable[..., Tensor], x: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
    def interruptible(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    return upscale.in_tiles(lambda part: network(part, *args, **options), x, interruptible)


def _blank_image(file: Checkpoint) -> Callable[[Tensor], Tensor]:
    """Return BaseModel.blank_inpaint_image_like: the gray that the model gets where the conditioning has no mask."""
    encode = partial(_encode, file.autoencoder) if file.autoencoder else NoAutoencoder(file.inspection.name).encode
    gray = inpaint.gray_latent(file.spec, encode)
    return lambda latent: gray.to(latent).expand_as(latent).clone()


def _class_condition(file: Checkpoint) -> Callable[..., Tensor | None]:
    """Return BaseModel.encode_adm, which computes an unCLIP model's class condition and rejects wrong pairings."""
    name, spec, augmentation = file.inspection.name, file.spec, file.noise_augmentation

    def encode_adm(**options: Any) -> Tensor | None:  # noqa: ANN401  all options of the conditioning
        checks.check_condition(name, spec, [[None, options]], allow=("inpaint",))
        if augmentation is None:
            return None
        seed = (options.get("seed") or 0) - 10  # ComfyUI's seed, for images added by its own node
        return unclip.class_condition(name, augmentation, options, seed).to(options["device"])

    return encode_adm


def _base_model(spec: ModelSpec, config: Comfy) -> Comfy:
    """Build ComfyUI's model for a kind, without its network."""
    base, on_cpu = comfy.model_base, torch.device("cpu")
    prediction = base.ModelType.V_PREDICTION if spec.prediction == "v_prediction" else base.ModelType.EPS
    if spec.condition == "upscale":
        return Upscaler(config, prediction, device=on_cpu)
    if spec.unet.vector_dim is not None:
        noise = {**config.noise_aug_config, "timestep_dim": spec.unet.vector_dim // 2}
        return base.SD21UNCLIP(config, noise, prediction, device=on_cpu)
    return Denoiser(config, prediction, device=on_cpu)


def _config(kind: str) -> Comfy:
    """Return ComfyUI's config class for a kind: latent format, noise schedule, key names for saving."""
    supported = comfy.supported_models
    others = {
        "unclip-h": supported.SD21UnclipH,
        "unclip-l": supported.SD21UnclipL,
        "x4": supported.SD_X4Upscaler,
    }
    return others.get(kind, supported.SD15 if kind.startswith("v1") else supported.SD20)


def _unet_config(spec: UNetSpec) -> dict[str, Any]:
    """Return the sizes under ComfyUI's names, which LoRAs with diffusers' keys, ControlNets and FreeU depend on."""
    levels = len(spec.channel_mult)
    return {
        "disable_unet_model_creation": True,
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "model_channels": spec.model_channels,
        "channel_mult": list(spec.channel_mult),
        "num_res_blocks": [spec.num_res_blocks] * levels,
        "transformer_depth": [int(has) for has in spec.attention for _ in range(spec.num_res_blocks)],
        "transformer_depth_output": [int(has) for has in spec.attention for _ in range(spec.num_res_blocks + 1)],
        "transformer_depth_middle": 1,
        "context_dim": spec.context_dim,
        "use_linear_in_transformer": spec.linear_projection,
        "adm_in_channels": spec.vector_dim,
        "num_classes": "sequential" if spec.vector_dim else spec.num_classes,
        "use_temporal_attention": False,
    }


@torch.no_grad()
def _encode(autoencoder: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encode images [B, H, W, 3] in 0..1 as latents [B, 4, h, w], on the device that the weights were loaded to."""
    return autoencoder.encode(2 * pixels.movedim(-1, 1).to(autoencoder.dtype) - 1)
