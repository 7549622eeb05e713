"""Our weights in diffusers' modules, by diffusers' own key conversion: an independent implementation to test with."""

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from tiny import hugging_face_image, hugging_face_text
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DPTConfig,
    DPTForDepthEstimation,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NO_CHECKER = {"safety_checker": None, "requires_safety_checker": False}
PIPELINES = {
    "v1": "StableDiffusionPipeline",
    "v1-inpaint": "StableDiffusionInpaintPipeline",
    "v2-base": "StableDiffusionPipeline",
    "v2-v": "StableDiffusionPipeline",
    "v2-inpaint": "StableDiffusionInpaintPipeline",
    "v2-depth": "StableDiffusionDepth2ImgPipeline",
    "unclip-h": "StableUnCLIPImg2ImgPipeline",
    "unclip-l": "StableUnCLIPImg2ImgPipeline",
    "x4": "StableDiffusionUpscalePipeline",
}
BACKBONE = "dpt.embeddings.backbone.bit."
TO_TRANSFORMERS = (
    ("pretrained.model.patch_embed.backbone.stem.conv.", BACKBONE + "embedder.convolution."),
    ("pretrained.model.patch_embed.backbone.stem.", BACKBONE + "embedder."),
    ("pretrained.model.patch_embed.backbone.", BACKBONE + "encoder."),
    ("pretrained.model.patch_embed.proj.", "dpt.embeddings.projection."),
    ("pretrained.model.pos_embed", "dpt.embeddings.position_embeddings"),
    ("pretrained.model.cls_token", "dpt.embeddings.cls_token"),
    ("pretrained.model.norm.", "dpt.layernorm."),
    ("pretrained.model.blocks.", "dpt.encoder.layer."),
    ("scratch.output_conv.", "head.head."),
    *((f"scratch.layer{n}_rn.", f"neck.convs.{n - 1}.") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.", f"neck.fusion_stage.layers.{4 - n}.") for n in (1, 2, 3, 4)),
    *(
        (f"pretrained.act_postprocess{n}.0.project.", f"neck.reassemble_stage.readout_projects.{n - 1}.")
        for n in (3, 4)
    ),
    *((f"pretrained.act_postprocess{n}.3.", f"neck.reassemble_stage.layers.{n - 1}.projection.") for n in (3, 4)),
    ("pretrained.act_postprocess4.4.", "neck.reassemble_stage.layers.3.resize."),
)
INSIDE = {
    BACKBONE: ((".blocks.", ".layers."),),
    "dpt.encoder.": (
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".attn.proj.", ".attention.output.dense."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    ),
    "neck.fusion_stage.": (
        (".out_conv.", ".projection."),
        (".resConfUnit", ".residual_layer"),
        (".conv", ".convolution"),
    ),
}


def diffusers_unet(unet):
    """A diffusers UNet that holds the weights of ours."""
    spec = unet.spec
    channels = [mult * spec.model_channels for mult in spec.channel_mult]
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in spec.attention]
    up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(spec.attention)]
    config = {
        "sample_size": 64,  # pipelines want a number, and use none
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "block_out_channels": channels,
        "layers_per_block": spec.num_res_blocks,
        "down_block_types": down,
        "up_block_types": up,
        "only_cross_attention": [not attention for attention in spec.self_attention],
        "cross_attention_dim": spec.context_dim,
        "use_linear_projection": spec.linear_projection,
        # diffusers' name for the number of heads
        "attention_head_dim": [spec.heads or width // spec.head_channels for width in channels],
        "num_class_embeds": spec.num_classes,
    }
    if spec.vector_dim is not None:
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": spec.vector_dim}
    model = UNet2DConditionModel(**config)
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.state_dict().items()}
    model.load_state_dict(convert_ldm_unet_checkpoint(prefixed, model.config))
    return model.eval()


def diffusers_vae(autoencoder, spec):
    """A diffusers autoencoder that holds the weights of ours."""
    levels = len(spec.channel_mult)
    model = AutoencoderKL(
        block_out_channels=[spec.channels * m for m in spec.channel_mult],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=spec.num_res_blocks,
        latent_channels=spec.latent_channels,
        scaling_factor=spec.scale,
    )
    prefixed = {f"first_stage_model.{key}": tensor for key, tensor in autoencoder.state_dict().items()}
    model.load_state_dict(convert_ldm_vae_checkpoint(prefixed, model.config))
    return model.eval()


def without_noise(vae):
    """The diffusers autoencoder made to encode to the mode, as our nodes do, and not to a sample."""
    vae.quant_conv.weight.data[4:] = 0
    vae.quant_conv.bias.data[4:] = -30  # log-variance: a deviation of 3e-7
    return vae


def transformers_text(tower):
    """The layers of our text tower that conditioning reads, in transformers' model."""
    spec = tower.spec
    layers = spec.layers - spec.penultimate
    config = CLIPTextConfig(
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=layers,
        num_attention_heads=spec.heads,
        hidden_act="gelu" if spec.tower == "openclip-h" else "quick_gelu",
    )
    unread = ("model.text_projection", "model.logit_scale", f"model.transformer.resblocks.{layers}.")
    state = hugging_face_text({key: t for key, t in tower.state_dict().items() if not key.startswith(unread)})
    model = CLIPTextModel(config)
    nested = any(key.startswith("text_model.") for key in model.state_dict())  # not from version 5 on
    model.load_state_dict({key if nested else key.removeprefix("text_model."): t for key, t in state.items()})
    return model.eval()


def transformers_image(tower):
    """transformers' image encoder with the weights of ours."""
    spec = tower.spec
    config = CLIPVisionConfig(
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        projection_dim=spec.embed_dim,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.width // spec.head_width,
        image_size=spec.image_size,
        patch_size=spec.patch_size,
        hidden_act="gelu" if spec.tower == "openclip-h" else "quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config)
    missing, unexpected = model.load_state_dict(hugging_face_image(tower.state_dict()), strict=False)
    assert not unexpected
    assert all("position_ids" in key for key in missing)
    return model.eval()


def transformers_depth(network):
    """transformers' DPT hybrid with the weights of our depth estimator."""
    spec = network.spec
    model = DPTForDepthEstimation(
        DPTConfig(
            is_hybrid=True,
            hidden_size=spec.width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            intermediate_size=4 * spec.width,
            layer_norm_eps=1e-6,
            image_size=spec.side,
            backbone_out_indices=[0, 1, 2, 3],  # of our four layers the last two
            backbone_featmap_shape=[1, spec.channels[-1], spec.grid, spec.grid],
            reassemble_factors=[1, 1, 1, 0.5],
            neck_hidden_sizes=[*spec.channels[:2], spec.width, spec.width],
            fusion_hidden_size=spec.features,
            backbone_config={
                "model_type": "bit",
                "global_padding": "same",
                "layer_type": "bottleneck",
                "embedding_dynamic_padding": True,
                "embedding_size": spec.stem,
                "hidden_sizes": list(spec.channels),
                "depths": list(spec.depths),
                "out_features": ["stage1", "stage2", "stage3"],
            },
        )
    )
    state = {}
    for key, tensor in network.state_dict().items():
        for old, new in TO_TRANSFORMERS:
            if key.startswith(old):
                key = key.replace(old, new)
        for part, names in INSIDE.items():
            for old, new in names if key.startswith(part) else ():
                key = key.replace(old, new)
        if ".attn.qkv." in key:
            for name, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[key.replace(".attn.qkv.", f".attention.attention.{name}.")] = piece
        else:
            state[key] = tensor
    missing, unexpected = model.load_state_dict(state, strict=False)
    unit = "neck.fusion_stage.layers.0.residual_layer1."  # of the coarsest fusion, which merges nothing
    assert not unexpected
    assert {key.rpartition(".")[0] for key in missing} == {
        "dpt.layernorm",
        unit + "convolution1",
        unit + "convolution2",
    }
    return model.eval()


def diffusers_ddim(prediction="epsilon"):
    """The authors' DDIM: `ddim` on `ldm`."""
    return DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction
    )


def pipeline_of(pipeline_class, file, **parts):
    """A pipeline of diffusers, without a tokenizer, around the networks of a loaded checkpoint and these parts."""
    ours = {"vae": diffusers_vae(file.vae.autoencoder, file.vae.spec), "unet": diffusers_unet(file.model.unet)}
    absent = dict.fromkeys(("text_encoder", "tokenizer", "feature_extractor"))
    pipeline = pipeline_class(**ours | absent | parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def official_pipeline(checkpoint):
    """Diffusers' pipeline of the kind with the weights of a loaded checkpoint."""
    spec = checkpoint.spec
    match checkpoint.kind:
        case "v2-depth":
            extra = {"depth_estimator": transformers_depth(checkpoint.depth), "feature_extractor": None}
        case "unclip-h" | "unclip-l":
            dim = spec.image.embed_dim
            normalizer = StableUnCLIPImageNormalizer(dim)
            normalizer.mean.data, normalizer.std.data = (
                torch.linspace(-1, 1, dim)[None],
                torch.linspace(1, 2, dim)[None],
            )
            extra = {
                "image_encoder": transformers_image(checkpoint.image),
                "image_normalizer": normalizer,
                "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
                "feature_extractor": CLIPImageProcessor(),
            }
        case "x4":
            extra = {"low_res_scheduler": DDPMScheduler(**BETAS), "watermarker": None, "safety_checker": None}
            extra["feature_extractor"] = None
        case _:
            extra = NO_CHECKER | {"feature_extractor": None}
    return getattr(diffusers, PIPELINES[checkpoint.kind])(
        unet=diffusers_unet(checkpoint.unet),
        vae=diffusers_vae(checkpoint.autoencoder, spec.autoencoder),
        text_encoder=transformers_text(checkpoint.text),
        tokenizer=None,
        scheduler=diffusers_ddim(spec.prediction),
        **extra,
    )
