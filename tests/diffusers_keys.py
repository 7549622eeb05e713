"""Our weights in diffusers' modules, by diffusers' own key conversion: an independent implementation to test with."""

from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint


def diffusers_unet(unet):
    """A diffusers UNet that holds the weights of ours."""
    spec = unet.spec
    channels = [mult * spec.model_channels for mult in spec.channel_mult]
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in spec.attention]
    up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(spec.attention)]
    config = {
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
