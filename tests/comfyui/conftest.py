"""One ComfyUI for all tests of this folder."""

import pytest
import torch
from live import Server, missing
from safetensors.torch import save_file
from tiny import tiny_state, write_checkpoint


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    server = Server(tmp_path_factory.mktemp("comfyui"))
    models = server.base / "models"
    for kind in ("v2-base", "v2-v", "v2-inpaint", "v2-depth", "v1"):
        write_checkpoint(models / "checkpoints" / f"{kind}.safetensors", kind)
    for style, names in LORA_NAMES.items():
        save_file(lora(names), models / "loras" / f"{style}.safetensors")
    server.start()
    yield server
    server.stop()


QUERY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
FIRST = "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight"
TEXT = {"lora_te_text_model_encoder_layers_0_mlp_fc1": FIRST}
LORA_NAMES = {
    "ldm": {"lora_unet_middle_block_1_transformer_blocks_0_attn2_to_q": QUERY, **TEXT},
    "diffusers": {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q": QUERY, **TEXT},
}


def lora(names, rank=4):
    """A LoRA that is strong enough to see, the same numbers under other names."""
    state = tiny_state("v2-base")
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for name, key in names.items():
        out, into = state[key].shape
        weights[f"{name}.lora_down.weight"] = torch.randn(rank, into, generator=generator) * into**-0.5
        weights[f"{name}.lora_up.weight"] = torch.randn(out, rank, generator=generator)
        weights[f"{name}.alpha"] = torch.tensor(float(rank))
    return weights
