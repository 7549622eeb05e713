"""The doors between the nodes and what runs them; the nodes and the runner know no other.

The only file that imports ComfyUI. Inside it, the objects on the wires are ComfyUI's own, around our networks: it
patches, moves, samples and saves them like those of its own loaders. Outside, `standalone` takes its place.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..models.hooks import Control
from ..models.specs import SPECS, ModelSpec, Prediction, TextSpec, UNetSpec
from ..models.unet import UNet
from ..samplers import SCHEDULERS, NoiseSchedule, truncate
from . import depthmap, folders, guider, lowres, standalone, vision
from .folders import inside, output_dir, set_dirs
from .solver import Solver, TabulatedSchedule, rescaled_guidance, solver_options
from .standalone import Loaded, Model, Sampling, compute_device, inspect, progress, set_reporter
from .wires import Conditioning

if TYPE_CHECKING:
    from ..models.autoencoder import AutoencoderKL
    from ..models.checkpoint import Checkpoint, Inspection
    from ..models.clip_image import ImageTower
    from ..models.clip_text import TextTower

IN_COMFYUI = "folder_paths" in sys.modules  # it is there before any pack is loaded

if IN_COMFYUI:
    import comfy.clip_vision
    import comfy.conds
    import comfy.ldm.models.autoencoder
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.model_sampling
    import comfy.ops
    import comfy.patcher_extension
    import comfy.sample
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models
    import comfy.text_encoders.sd2_clip
    import comfy.utils
    import folder_paths
    import latent_preview

__all__ = [
    "Model",
    "Sampling",
    "compute_device",
    "identify",
    "input_dir",
    "inside",
    "inspect",
    "list_models",
    "load_checkpoint",
    "notice",
    "output_dir",
    "progress",
    "resolve_model",
    "sample",
    "schedule",
    "set_dirs",
    "set_reporter",
]

Patcher = Any  # a comfy.model_patcher.ModelPatcher: what is on a MODEL wire
Comfy = Any  # another object of ComfyUI's

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
LEAVES = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)


def notice(message: str) -> None:
    """Tell the user something that is no error."""
    logging.getLogger("sd2_family").warning(message)


# Files


def list_models(kind: str) -> list[str]:
    """What `resolve_model` finds by name, sorted; the bundled files and the folders of diffusers are among them."""
    if not IN_COMFYUI:
        return folders.list_models(kind)
    names = {name for name in folder_paths.get_filename_list(kind) if name.endswith(folders.SUFFIXES)}
    names |= {path.name for path in folders.BUNDLED.glob("*") if path.suffix in folders.SUFFIXES}
    return sorted(names | set(_diffusers_folders(kind)))


def _diffusers_folders(kind: str) -> dict[str, Path]:
    places = folder_paths.get_folder_paths(folders.DIFFUSERS) if kind == "checkpoints" else []
    return folders.diffusers_folders(map(Path, places))


def resolve_model(kind: str, name: str) -> Path:
    """The file or folder of a model, by a name from `list_models`; the user's own come before the bundled ones."""
    if not IN_COMFYUI:
        return folders.resolve_model(kind, name)
    found = folder_paths.get_full_path(kind, name) or _diffusers_folders(kind).get(name)
    path = Path(found) if found else inside(folders.BUNDLED, name)
    if not folders.is_model(path):
        places = " or ".join(folder_paths.get_folder_paths(kind))
        raise ValueError(f"{name} is not in {places}; put it there and press R on the canvas")
    return path


def input_dir() -> Path:
    """Where pictures are read from."""
    return Path(folder_paths.get_input_directory()) if IN_COMFYUI else folders.input_dir()


# Loading


def load_checkpoint(
    name: str, prediction: Literal["auto"] | Prediction = "auto", dtype: torch.dtype | None = None
) -> Loaded:
    """Read a checkpoint as the objects on the wires; a dtype of None leaves the choice to the host."""
    if not IN_COMFYUI:
        return standalone.load_checkpoint(name, prediction, dtype)
    return _load(resolve_model("checkpoints", name), prediction, dtype)


def _load(
    path: Path, prediction: Literal["auto"] | Prediction, dtype: torch.dtype | None, disable_dynamic: bool = False
) -> Loaded:
    from ..models import checkpoint  # open_clip takes seconds to import

    weights, compute = _unet_dtypes(checkpoint.inspect(path), dtype)
    ops = comfy.ops.pick_operations(weights, compute)
    file = checkpoint.load_checkpoint(
        path, prediction=prediction, prepare=lambda module: _retype(module, ops if isinstance(module, UNet) else None)
    )
    vae = _vae(file.autoencoder, file.spec.autoencoder.factor, dtype)
    clip = _clip(file.text, dtype, disable_dynamic)
    model = _model(file, weights, compute, disable_dynamic)
    encoder = vision.NoImageEncoder(path.name) if file.image is None else _image_encoder(file.image, dtype)
    depth = depthmap.NoDepthModel(path.name) if file.depth is None else DepthModel(file.depth)
    loaded = Loaded(model, clip, vae, encoder, depth, file.report)
    for index, patcher in enumerate(_patchers_of(loaded)):
        # how ComfyUI makes a second, independent copy: for another GPU, or one that is not streamed
        patcher.cached_patcher_init = (_patchers, (path, prediction, dtype), index)
    return loaded


def _patchers(
    path: Path, prediction: Literal["auto"] | Prediction, dtype: torch.dtype | None, disable_dynamic: bool = False
) -> list[Patcher]:
    return _patchers_of(_load(path, prediction, dtype, disable_dynamic))


def _patchers_of(loaded: Loaded) -> list[Patcher]:
    model, *others = loaded[:4]
    return [model, *(other.patcher for other in others if hasattr(other, "patcher"))]


def _unet_dtypes(inspection: Inspection, wanted: torch.dtype | None) -> tuple[torch.dtype, torch.dtype | None]:
    """What the UNet is stored in, and what it computes in where that is another: ComfyUI's choice for this machine."""
    management = comfy.model_management
    stored = getattr(torch, inspection.dtypes["unet"])
    size = inspection.sizes["unet"]
    weights = wanted or management.unet_dtype(model_params=size, supported_dtypes=DTYPES, weight_dtype=stored)
    return weights, management.unet_manual_cast(weights, management.get_torch_device(), DTYPES)


class DepthModel(standalone.DepthModel):
    """A depth estimator that ComfyUI moves to the device, and off it when it needs the room."""

    @cached_property
    def patcher(self) -> Patcher:
        management = comfy.model_management
        return comfy.model_patcher.ModelPatcher(
            self.network.float(),
            load_device=management.get_torch_device(),
            offload_device=management.unet_offload_device(),
        )

    def place(self) -> torch.device:
        """Move the network to where it computes: as a whole, for its layers are not ComfyUI's."""
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        device: torch.device = self.patcher.load_device
        return device


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


def _retype(module: nn.Module, ops: Comfy) -> None:
    """Make a module's layers ComfyUI's own, whose weights it can cast, patch and stream while they compute."""
    if isinstance(module, UNet):
        module.__class__ = ComfyUNet
    ops = ops or comfy.ops.disable_weight_init
    for leaf in module.modules():
        if type(leaf) in LEAVES:
            leaf.__class__ = getattr(ops, type(leaf).__name__)


def _patcher_class(disable_dynamic: bool) -> Comfy:
    plain = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def _archive_dtypes(module: nn.Module) -> None:
    """Note the dtypes of the weights, for the versions of ComfyUI that stream them."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(module)


def _model(file: Checkpoint, weights: torch.dtype, compute: torch.dtype | None, disable_dynamic: bool) -> Patcher:
    """A ModelPatcher around our UNet in ComfyUI's BaseModel."""
    config = _config(file.kind)(_unet_config(file.spec.unet))
    config.set_inference_dtype(weights, compute)
    config.sampling_settings["zsnr"] = file.inspection.zero_terminal_snr
    model = _base_model(file.spec, config)
    model.diffusion_model = file.unet.to(weights)
    model.sd2_name, model.sd2_spec = file.inspection.name, file.spec
    if file.spec.unet.in_channels == guider.INPAINT_CHANNELS:
        model.set_inpaint()
        grey = guider.grey_latent(file.spec, lambda pixels: _encode(file.autoencoder, pixels))
        model.blank_inpaint_image_like = lambda latent: grey.to(latent).expand_as(latent).clone()
    if file.kind != "x4":
        model.encode_adm = _class_condition(file)
    _archive_dtypes(model.diffusion_model)
    management = comfy.model_management
    patcher = _patcher_class(disable_dynamic)(
        model, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    if file.kind == "x4":
        _sample_in_tiles(patcher)
    return patcher


if IN_COMFYUI:

    class Denoiser(comfy.model_base.BaseModel):
        """ComfyUI's model, which sees the depth map of our conditioning."""

        def concat_cond(self, **options: Any) -> Tensor | None:  # noqa: ANN401  all that the conditioning holds
            if options.get("concat_depth") is not None:
                return depthmap.channel(options, options["noise"]).to(options["device"])
            inpaint: Tensor | None = super().concat_cond(**options)
            return inpaint

    class Upscaler(comfy.model_base.SD_X4Upscaler):
        """ComfyUI's x4 upscaler, whose picture is noised by the seed of our node where the conditioning has one."""

        def extra_conds(self, **options: Any) -> dict[str, Any]:  # noqa: ANN401  all that the conditioning holds
            guider.check_pictures(self.sd2_name, self.sd2_spec, [[None, options]])
            lowres.check_picture(self.sd2_name, options)
            conds: dict[str, Any] = super().extra_conds(**options)
            if "noise_augmentation_seed" in options:
                picture, level = lowres.condition(options, options["noise"])
                conds["c_concat"] = comfy.conds.CONDNoiseShape(picture.to(options["device"]))
                conds["y"] = comfy.conds.CONDRegular(level.to(options["device"]))
            return conds

        def memory_required(self, input_shape: Sequence[int], *args: Any, **options: Any) -> float:  # noqa: ANN401
            """Of a tile, where the picture is larger than one."""
            needed: float = super().memory_required(lowres.largest_part(input_shape), *args, **options)
            return needed


def _sample_in_tiles(model: Patcher) -> None:
    """Make an upscaler compute large pictures in tiles, whichever sampler asks it."""
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    if not model.get_wrappers(kind, "sd2_tiles"):
        model.add_wrapper_with_key(kind, "sd2_tiles", _in_tiles)


def _in_tiles(network: Callable[..., Tensor], x: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: ANN401
    def interruptible(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    return lowres.in_tiles(lambda part: network(part, *args, **options), x, interruptible)


def _class_condition(file: Checkpoint) -> Callable[..., Tensor | None]:
    """BaseModel.encode_adm: what an unCLIP model's UNet is told of pictures; wrong pairings end here."""
    name, spec, augmentation = file.inspection.name, file.spec, file.noise_augmentation

    def encode_adm(**options: Any) -> Tensor | None:  # noqa: ANN401  all that the conditioning holds
        guider.check_pictures(name, spec, [[None, options]])
        if augmentation is None:
            return None
        seed = (options.get("seed") or 0) - 10  # ComfyUI's, where its own node adds the picture
        return vision.class_condition(name, augmentation, options, seed).to(options["device"])

    return encode_adm


def _base_model(spec: ModelSpec, config: Comfy) -> Comfy:
    """ComfyUI's model of a kind, still without its network."""
    base, on_cpu = comfy.model_base, torch.device("cpu")
    prediction = base.ModelType.V_PREDICTION if spec.prediction == "v_prediction" else base.ModelType.EPS
    if spec.kind == "x4":
        return Upscaler(config, prediction, device=on_cpu)
    if spec.unet.vector_dim is not None:
        noise = {**config.noise_aug_config, "timestep_dim": spec.unet.vector_dim // 2}
        return base.SD21UNCLIP(config, noise, prediction, device=on_cpu)
    return Denoiser(config, prediction, device=on_cpu)


def _config(kind: str) -> Comfy:
    """ComfyUI's description of a kind: latent format, noise schedule, and the names under which it saves weights."""
    supported = comfy.supported_models
    others = {
        "unclip-h": supported.SD21UnclipH,
        "unclip-l": supported.SD21UnclipL,
        "x4": supported.SD_X4Upscaler,
    }
    return others.get(kind, supported.SD15 if kind.startswith("v1") else supported.SD20)


def _unet_config(spec: UNetSpec) -> dict[str, Any]:
    """The sizes under ComfyUI's names, by which it finds layers for LoRAs in diffusers' naming, ControlNets, FreeU."""
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
    """Pictures [B, H, W, 3] in 0..1 -> latents [B, 4, h, w], while nothing has been moved from where it was read."""
    return autoencoder.encode(2 * pixels.movedim(-1, 1).to(autoencoder.dtype) - 1)


def _clip(tower: TextTower, dtype: torch.dtype | None, disable_dynamic: bool) -> Comfy:
    """ComfyUI's own text encoder with the weights of ours, at any width."""
    openclip = tower.spec.tower == "openclip-h"
    name = "clip_h" if openclip else "clip_l"
    sd2 = comfy.text_encoders.sd2_clip
    state = comfy.utils.clip_text_transformers_convert(dict(tower.state_dict()), "model.", f"{name}.transformer.")
    if openclip:
        target = SimpleNamespace(params={}, clip=sd2.SD2ClipModel, tokenizer=sd2.SD2Tokenizer)
        state[f"{name}.logit_scale"] = state.pop("model.logit_scale")
    else:
        target = SimpleNamespace(params={}, clip=comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer)
        state[f"{name}.transformer.text_projection.weight"] = torch.eye(tower.spec.width)  # 1.x has none
    on_cpu = comfy.model_management.text_encoder_device().type == "cpu"
    options = {
        f"{name}_model_config": _text_config(tower.spec),
        "dtype": dtype or (tower.dtype if on_cpu else None),  # ComfyUI would round to float16 even there
    }
    return _filled_clip(target, state, options, disable_dynamic)


def _text_config(spec: TextSpec) -> dict[str, int]:
    return {
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
    }


def _filled_clip(
    target: SimpleNamespace, state: dict[str, Tensor], options: dict[str, Any], disable_dynamic: bool
) -> Comfy:
    arguments: dict[str, Any] = {
        "embedding_directory": folder_paths.get_folder_paths("embeddings"),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "model_options": options,
    }
    if not hasattr(comfy.model_patcher, "CoreModelPatcher"):  # before weights were streamed
        clip = comfy.sd.CLIP(target, **arguments)
        clip.load_sd(state, full_model=True)
        return clip
    return comfy.sd.CLIP(target, **arguments, state_dict=state, disable_dynamic=disable_dynamic)


def _vae(autoencoder: AutoencoderKL, factor: int, dtype: torch.dtype | None) -> Comfy:
    """ComfyUI's own VAE around our autoencoder, at any width."""
    # built around the smallest autoencoder that ComfyUI has, then that is exchanged
    sizes = {"double_z": True, "z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3}
    sizes |= {"ch": 32, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    smallest = {"ddconfig": sizes, "embed_dim": 4}
    state = comfy.ldm.models.autoencoder.AutoencoderKL(**smallest).state_dict()
    vae = comfy.sd.VAE(sd=state, config={"params": smallest}, dtype=dtype)
    vae.first_stage_model = autoencoder.to(vae.vae_dtype)
    _archive_dtypes(autoencoder)
    vae.patcher = type(vae.patcher)(
        autoencoder, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.size = None  # counted again when asked for
    vae.downscale_ratio = vae.upscale_ratio = factor
    vae.memory_used_decode = lambda shape, dtype: (
        2178 * shape[2] * shape[3] * factor**2 * comfy.model_management.dtype_size(dtype)
    )
    return vae


if IN_COMFYUI:

    class ImageEncoder(comfy.clip_vision.ClipVisionModel):
        """ComfyUI's image encoder, which is shown pictures as the authors' code shows them."""

        def encode_image(self, image: Tensor, crop: bool = True) -> Comfy:
            from ..models.clip_image import preprocess

            comfy.model_management.load_model_gpu(self.patcher)
            pixels = preprocess(image.to(self.load_device), self.image_size, crop=crop)
            last, penultimate, embeddings, _ = self.model(pixel_values=pixels, intermediate_output=-2)
            device = comfy.model_management.intermediate_device()
            output = comfy.clip_vision.Output()
            output.image_embeds = embeddings.float().to(device)
            output.last_hidden_state, output.penultimate_hidden_states = last.to(device), penultimate.to(device)
            output.mm_projected = None
            return output


def _image_encoder(tower: ImageTower, dtype: torch.dtype | None) -> Comfy:
    """ComfyUI's own image encoder with the weights of ours, at any width."""
    from ..models.clip_image import hugging_face_config

    with tempfile.TemporaryDirectory() as folder:  # older versions take a file only
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(hugging_face_config(tower.spec)), encoding="utf-8")
        encoder = ImageEncoder(str(path))
    on_cpu = encoder.load_device.type == "cpu"
    encoder.dtype = dtype or (tower.dtype if on_cpu else encoder.dtype)  # ComfyUI would round to float16 even there
    encoder.model.to(encoder.dtype)
    state = comfy.clip_vision.convert_to_transformers(dict(tower.state_dict()), "visual.")
    encoder.load_sd({key: tensor.to(encoder.dtype) for key, tensor in state.items()})
    return encoder


# Sampling


def schedule(model: Patcher) -> NoiseSchedule:
    """The noise schedule of the model on a MODEL wire, as the nodes before this one have set it."""
    if not IN_COMFYUI:
        own: NoiseSchedule = model.schedule
        return own
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.EPS):
        raise ValueError(
            f"{_name(model)} is no diffusion model that predicts noise or velocity ({type(model.model).__name__}); "
            "sample it with KSampler"
        )
    table = sampling.sigmas.detach()
    return TabulatedSchedule(table=table, steps=len(table))


def sample(
    model: Patcher,
    sampling: Sampling,
    positive: Conditioning,
    negative: Conditioning,
    *,
    latent: Tensor,
    noise: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """latent and noise [B, 4, h, w], mask [B, 1, h, w] with 1 where to repaint -> latent [B, 4, h, w], unscaled."""
    if not IN_COMFYUI:
        return standalone.sample(model, sampling, positive, negative, latent=latent, noise=noise, mask=mask)
    _check(model, latent, positive, negative)
    if isinstance(model.model, comfy.model_base.SD_X4Upscaler):
        model = model.clone()
        _sample_in_tiles(model)
    levels = schedule(model)
    sigmas = truncate(SCHEDULERS[sampling.scheduler], levels, sampling.steps, sampling.denoise).float()
    if len(sigmas) == 0:
        return latent
    if sampling.cfg_rescale > 0:
        model = model.clone()
        velocity = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)
        guidance = rescaled_guidance(sampling.cfg_rescale, "v_prediction" if velocity else "epsilon")
        model.set_model_sampler_cfg_function(guidance)
    options = solver_options(sampling.sampler_name, sampling.eta)
    samples: Tensor = comfy.sample.sample_custom(
        model,
        noise,
        sampling.cfg,
        Solver(sampler_name=sampling.sampler_name, options=options, whole=sampling.denoise >= 1),
        sigmas,
        positive,
        negative,
        latent,
        noise_mask=mask,
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=sampling.seed,
    )
    return samples


def _check(model: Patcher, latent: Tensor, *sides: Conditioning) -> None:
    """As without ComfyUI, where the model is one of this family; others are ComfyUI's own business."""
    spec = _spec(model)
    if spec is None:
        return
    guider.check(_name(model), spec, latent, *sides)
    for context, _ in (entry for side in sides for entry in side):
        guider.check_width(_name(model), spec, context)


def identify(model: Patcher) -> tuple[str, ModelSpec | None]:
    """What messages call the model on a MODEL wire, and what it is; None for one of no kind that we know."""
    return (_name(model), _spec(model)) if IN_COMFYUI else (model.name, model.spec)


def _name(model: Patcher) -> str:
    """What messages call the model: its file, where our loader read it."""
    return getattr(model.model, "sd2_name", "the model")


def _spec(model: Patcher) -> ModelSpec | None:
    """What a model of the family is; None for other models."""
    known: ModelSpec | None = getattr(model.model, "sd2_spec", None)
    config = model.model.model_config
    supported = comfy.supported_models
    kinds = {
        supported.SD15: ("v1", "v1-inpaint"),
        supported.SD20: ("v2-base", "v2-inpaint"),
        supported.SD_X4Upscaler: ("x4", "x4"),
    }.get(type(config))
    if known is not None or kinds is None:
        return known
    spec = SPECS[kinds[config.unet_config["in_channels"] == guider.INPAINT_CHANNELS]]
    return replace(spec, unet=replace(spec.unet, context_dim=config.unet_config["context_dim"]))
