"""Which weight of a network a layer of a LoRA file names.

Every trainer has its own prefix, and either dots or underscores between the words. A name is compared without the
prefix and with underscores only. A UNet's layers are named as in the checkpoint or as in diffusers, a text tower's as
in transformers, where q, k and v are apart: in ours they are the rows of one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .clip_text import TextTower
from .unet import UNet

_UNET = re.compile(r"(lora_unet_|lycoris_|(base_model\.model\.)?(unet\.|(model\.)?diffusion_model\.)?)(?P<name>.+)")
_TEXT = re.compile(r"(lora_te1?_|(base_model\.model\.)?text_encoder\.)(text_model[._])?(?P<name>.+)")
# as ComfyUI saves them:
_GENERIC_TEXT = re.compile(r"text_encoders\.clip_[hl]\.transformer\.(text_model\.)?(?P<name>.+)")
_SDXL = re.compile(
    r"(lora_te2_|text_encoder_2\.).+"
    r"|.+(attentions[._]\d+|(input|output)_blocks[._]\d+[._]1|middle_block[._]1)[._]transformer_blocks[._]1[._].+"
)
_UNREAD = re.compile(r"(lora_te1?_|text_encoders?\.).*(text_projection|logit_scale)$")  # no prompt goes through these

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_AROUND = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "class_embedding.linear_1",
    "label_emb.0.2": "class_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_LINEAR = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
_NORMS = {"layer_norm1": "ln_1", "layer_norm2": "ln_2"}
_AROUND_TEXT = {
    "embeddings.token_embedding": "token_embedding.weight",
    "embeddings.position_embedding": "positional_embedding",
    "final_layer_norm": "ln_final.weight",
}


@dataclass(frozen=True)
class Place:
    """A weight of a network by its key, or some rows of it; its bias has the key that ends in bias instead."""

    key: str
    start: int = 0
    stop: int | None = None

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def bias(self) -> str:
        return f"{self.key.removesuffix('weight')}bias"


def of_text_encoder(layer: str) -> bool:
    """Whether a layer of a LoRA file belongs to a text encoder."""
    return bool(_TEXT.fullmatch(layer) or _GENERIC_TEXT.fullmatch(layer))


def is_unread(layer: str) -> bool:
    """Whether a layer is one that no model of the family uses."""
    return bool(_UNREAD.match(layer))


def is_sdxl(layer: str) -> bool:
    """Whether a layer is one that only SDXL has: of its second text encoder, or deep in a transformer."""
    return bool(_SDXL.fullmatch(layer))


def flat(layer: str) -> str:
    """Return the name of a layer in a form that is the same for every trainer, as `places` has it."""
    for prefix, pattern in (("text.", _TEXT), ("generic.", _GENERIC_TEXT), ("unet.", _UNET)):
        if match := pattern.fullmatch(layer):
            name = match["name"].replace(".processor.", ".").replace(".", "_")
            return prefix + (f"{name}_0" if name.endswith("_to_out") else name)
    return layer


def unet_places(unet: UNet) -> dict[str, Place]:
    """Return the places in a UNet by `flat` name."""
    places = {}
    for key in unet.state_dict():
        if key.endswith(".weight"):
            path = key.removesuffix(".weight")
            for name in (path, _diffusers_name(path.split("."), 1 + unet.spec.num_res_blocks)):
                places["unet." + name.replace(".", "_")] = Place(key)
    return places


def _diffusers_name(path: list[str], level: int) -> str:
    """Return diffusers' name of a layer; level: the blocks of one level, its residual blocks and one more."""
    match path:
        case ["input_blocks", n, "0", "op"]:
            return f"down_blocks.{int(n) // level - 1}.downsamplers.0.conv"
        case ["input_blocks", n, part, *rest] if n != "0":
            return f"down_blocks.{(int(n) - 1) // level}.{_part(part, (int(n) - 1) % level, rest)}"
        case ["middle_block", n, *rest]:
            return f"mid_block.{_part('1', 0, rest) if n == '1' else _part('0', int(n) // 2, rest)}"
        case ["output_blocks", n, _, "conv"]:
            return f"up_blocks.{int(n) // level}.upsamplers.0.conv"
        case ["output_blocks", n, part, *rest]:
            return f"up_blocks.{int(n) // level}.{_part(part, int(n) % level, rest)}"
    return _AROUND.get(".".join(path), ".".join(path))


def _part(part: str, number: int, rest: list[str]) -> str:
    inside = ".".join(rest)
    return f"resnets.{number}.{_RESIDUAL[inside]}" if part == "0" else f"attentions.{number}.{inside}"


def text_places(tower: TextTower) -> dict[str, Place]:
    """Return the places in a text tower by `flat` name; norms and embeddings have only ComfyUI's own."""
    places: dict[str, Place] = {}
    for name, place, linear in _text_layers(tower):
        flattened = name.replace(".", "_")
        places |= {f"generic.{flattened}": place} | ({f"text.{flattened}": place} if linear else {})
    return places


def _text_layers(tower: TextTower) -> Iterator[tuple[str, Place, bool]]:
    """Yield transformers' name of each layer, its place and whether it is a linear layer."""
    width = tower.spec.width
    for theirs, ours in _AROUND_TEXT.items():
        yield theirs, Place(f"model.{ours}"), False
    for i in range(tower.spec.layers):
        layer, block = f"encoder.layers.{i}", f"model.transformer.resblocks.{i}"
        for index, letter in enumerate("qkv"):
            rows = index * width, (index + 1) * width
            yield f"{layer}.self_attn.{letter}_proj", Place(f"{block}.attn.in_proj_weight", *rows), True
        for theirs, ours in (_LINEAR | _NORMS).items():
            yield f"{layer}.{theirs}", Place(f"{block}.{ours}.weight"), theirs in _LINEAR
