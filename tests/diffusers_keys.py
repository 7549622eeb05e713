"""Our weights in diffusers' modules, by diffusers' own key conversion: an independent implementation to test with."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from tiny import hugging_face_image, hugging_face_text
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection


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
    groups = [module.num_groups for module in autoencoder.modules() if isinstance(module, torch.nn.GroupNorm)]
    norms = [module for module in model.modules() if isinstance(module, torch.nn.GroupNorm)]
    for norm in norms:  # diffusers has one number for all levels, ours depends on the width in a narrow file
        norm.num_groups = min(32, norm.num_channels // 4)
    assert sorted(norm.num_groups for norm in norms) == sorted(groups)
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


def diffusers_ddim(prediction="epsilon"):
    """The authors' DDIM: `ddim` on `ldm`."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
