"""LoRA files on our networks: W + strength * alpha / rank * up down under diffusers' and transformers' names."""

import logging
from dataclasses import replace

import pytest
import torch
from helpers import empty, loaded, prompts, sample
from lora_files import (
    LDM_STYLES,
    LINEAR,
    RANK,
    STYLES,
    dora,
    forms,
    random_lora,
    shapes,
    text_weights,
    unet_weights,
    write_lora,
)
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.models import lora
from sd2_family.pipeline.apply_lora import apply_lora
from tiny import tiny_spec, write_checkpoint

# float32 products of other order on weights near 1
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def changed_by(weights, differences, strength):
    return {
        key: tensor + strength * differences[key.removesuffix(".weight")]
        if key.removesuffix(".weight") in differences and key.endswith(".weight")
        else tensor
        for key, tensor in weights.items()
    }


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, **CLOSE, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["v1", "v2-base", "unclip-h"])
def test_every_trainers_names(load, tmp_path, kind, style):
    file, keys = load(kind), STYLES[style]
    unet, text = unet_weights(file.model.unet), text_weights(file.clip.tower)
    tensors, of_unet = random_lora(shapes(unet), keys["unet"])
    of_text = {}
    if "text" in keys:
        more, of_text = random_lora(shapes(text, LINEAR), keys["text"], seed=1)
        tensors |= more
    assert len(of_unet) > 20
    path = write_lora(tmp_path / "style.safetensors", tensors)
    model, clip = apply_lora(path, file.model, file.clip, 0.7, -0.4)
    same(unet_weights(model.changed_unet), changed_by(unet, of_unet, 0.7))
    same(text_weights(clip.changed_tower), changed_by(text, of_text, -0.4))


@pytest.mark.parametrize("style", LDM_STYLES)
def test_names_of_the_checkpoint(load, tmp_path, style):
    file = load("v1")
    weights = file.model.unet.state_dict()
    tensors, differences = random_lora(shapes(weights), LDM_STYLES[style])
    path = write_lora(tmp_path / "style.pt", tensors)
    model, _ = apply_lora(path, file.model, None, 0.7, 0)
    same(model.changed_unet.state_dict(), changed_by(weights, differences, 0.7))


def test_comfyuis_own_names_reach_the_norms_and_embeddings_of_a_text_tower(load, tmp_path):
    file = load("v2-base")
    text = text_weights(file.clip.tower)
    generator = torch.Generator().manual_seed(0)
    diffs = {
        key.removesuffix(".weight"): torch.randn(tensor.shape, generator=generator)
        for key, tensor in text.items()
        if key.endswith(".weight")
    }
    tensors = {f"text_encoders.clip_h.transformer.{name}.diff": diff for name, diff in diffs.items()}
    path = write_lora(tmp_path / "style.safetensors", tensors)
    _, clip = apply_lora(path, file.model, file.clip, 1.0, 0.5)
    same(text_weights(clip.changed_tower), changed_by(text, diffs, 0.5))


CONVOLUTION, MATRIX = "input_blocks.1.0.in_layers.2", "middle_block.1.transformer_blocks.0.ff.net.2"


@pytest.mark.parametrize("layer", [CONVOLUTION, MATRIX])
def test_every_form(load, tmp_path, layer):
    file = load("v1")
    weight = file.model.unet.state_dict()[f"{layer}.weight"]
    for form, (tensors, difference) in forms(weight.shape).items():
        name = layer.replace(".", "_")
        path = write_lora(tmp_path / f"{form}.safetensors", {f"lora_unet_{name}.{k}": v for k, v in tensors.items()})
        model, _ = apply_lora(path, file.model, None, 0.8, 0)
        found = model.changed_unet.state_dict()[f"{layer}.weight"]
        torch.testing.assert_close(found, weight + 0.8 * difference, **CLOSE, msg=form)


@pytest.mark.parametrize("axis", [0, 1])
def test_lengths_of_rows_and_columns(load, tmp_path, axis):
    file = load("v1")
    weight = file.model.unet.state_dict()[f"{CONVOLUTION}.weight"]
    factors, product = dora(weight.shape, axis)
    scale = factors["dora_scale"]
    name = f"lora_unet_{CONVOLUTION.replace('.', '_')}"
    path = write_lora(tmp_path / "dora.safetensors", {f"{name}.{key}": tensor for key, tensor in factors.items()})
    target = weight + product
    measured = weight if axis == 0 else target
    lengths = torch.stack([part.norm() for part in measured.unbind(axis)]).reshape(scale.shape)
    for strength in (1.0, 0.5):
        model, _ = apply_lora(path, file.model, None, strength, 0)
        found = model.changed_unet.state_dict()[f"{CONVOLUTION}.weight"]
        torch.testing.assert_close(found, weight.lerp(target * scale / lengths, strength), **CLOSE)


def test_biases_and_norms(load, tmp_path):
    file = load("v1")
    state, clip = file.model.unet.state_dict(), text_weights(file.clip.tower)
    width = state[f"{CONVOLUTION}.bias"].shape
    bias, norm, shift, query = torch.rand(width), torch.rand(64), torch.rand(64), torch.rand(64)
    tensors = {
        f"lora_unet_{CONVOLUTION.replace('.', '_')}.diff_b": bias,
        "lora_unet_down_blocks_0_resnets_0_norm1.w_norm": norm,
        "lora_unet_down_blocks_0_resnets_0_norm1.b_norm": shift,
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj.diff_b": query,
    }
    path = write_lora(tmp_path / "biases.safetensors", tensors)
    model, text = apply_lora(path, file.model, file.clip, 0.5, 2.0)
    found = model.changed_unet.state_dict()
    torch.testing.assert_close(found[f"{CONVOLUTION}.bias"], state[f"{CONVOLUTION}.bias"] + 0.5 * bias)
    before = "input_blocks.1.0.in_layers.0"
    torch.testing.assert_close(found[f"{before}.weight"], state[f"{before}.weight"] + 0.5 * norm)
    torch.testing.assert_close(found[f"{before}.bias"], state[f"{before}.bias"] + 0.5 * shift)
    key = "text_model.encoder.layers.1.self_attn.q_proj.bias"
    same(text_weights(text.changed_tower), {**clip, key: clip[key] + 2 * query})


@pytest.fixture
def style(load, tmp_path):
    """(the tiny v2 model, a LoRA of its attention and text tower, the weights' differences)."""
    file = load("v2-base")
    unet, text = shapes(unet_weights(file.model.unet)), shapes(text_weights(file.clip.tower), LINEAR)
    tensors, differences = random_lora({n: s for n, s in unet.items() if ".attn" in n}, STYLES["kohya"]["unet"])
    more, of_text = random_lora(text, STYLES["kohya"]["text"])
    return file, write_lora(tmp_path / "loras" / "style.safetensors", tensors | more), differences, of_text


def test_strengths_add_up_and_nothing_given_changes(style):
    file, path, differences, of_text = style
    before, text = unet_weights(file.model.unet), text_weights(file.clip.tower)
    before, text = ({k: t.clone() for k, t in state.items()} for state in (before, text))
    once = apply_lora(path, file.model, file.clip, 0.7, 0.2)
    twice = apply_lora(path, *once, 0.7, -0.5)
    same(unet_weights(twice[0].changed_unet), changed_by(before, differences, 1.4))
    same(text_weights(twice[1].changed_tower), changed_by(text, of_text, -0.3))
    same(unet_weights(once[0].changed_unet), changed_by(before, differences, 0.7))
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet_weights(file.model.unet).items())
    assert all(torch.equal(tensor, text[key]) for key, tensor in text_weights(file.clip.tower).items())


def test_a_copy_has_only_the_changed_weights_to_itself(style):
    file, path, differences, _ = style
    model, _ = apply_lora(path, file.model, None, 1.0, 0)
    ours, theirs = dict(file.model.unet.named_parameters()), dict(model.changed_unet.named_parameters())
    assert len([key for key in ours if theirs[key] is not ours[key]]) == len(differences)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_half_precision_file_is_rounded_once(own_models, tmp_path, dtype):
    """The sum of two LoRAs, on a float16 checkpoint whether or not it computed before."""
    write_checkpoint(own_models() / "half.safetensors", "v1", dtype=torch.float16)
    path = tmp_path / "style.safetensors"
    results = []
    for computed_before in (False, True):
        file = loaded("half.safetensors", "auto", str(dtype).removeprefix("torch."))
        key, weight = f"{MATRIX}.weight", file.model.unet.state_dict()[f"{MATRIX}.weight"].clone()
        tensors, differences = random_lora({MATRIX: weight.shape}, LDM_STYLES["kohya"], dtype=torch.float16)
        write_lora(path, tensors)
        if computed_before:
            file.model.placed()
        model, _ = apply_lora(path, *apply_lora(path, file.model, None, 0.3, 0), 0.4, 0)
        found = model.changed_unet.state_dict()[key]
        expected = (weight.to(dtype).float() + 0.7 * differences[MATRIX]).to(dtype)
        torch.testing.assert_close(found, expected)
        results.append(found)
    assert torch.equal(*results)


def test_both_branches_of_a_model_sample_as_their_own_weights_say(style):
    file, path, *_ = style
    before = sample(file, *prompts(file), empty())["samples"]
    (model, clip) = STOCK["LoraLoader"]().load_lora(file.model, file.clip, str(path), 0.8, 0.6)
    changed = type(file)(**{**vars(file), "model": model, "clip": clip})
    after = sample(changed, *prompts(changed), empty())["samples"]
    merged = type(file)(
        **{
            **vars(file),
            "model": replace(model, unet=model.changed_unet, changes=()),
            "clip": replace(clip, tower=clip.changed_tower, changes=()),
        }
    )
    assert (after - before).abs().max() > 0.1
    assert torch.equal(sample(merged, *prompts(merged), empty())["samples"], after)
    assert torch.equal(sample(file, *prompts(file), empty())["samples"], before)


def test_the_loaders_find_files_in_subfolders_and_by_windows_names(style, tmp_path, monkeypatch):
    file, path, *_ = style
    monkeypatch.setenv("SD2_MODELS_DIR", str(tmp_path))
    path.rename((path.parent / "sub").mkdir() or path.parent / "sub" / "style.safetensors")
    loader = STOCK["LoraLoaderModelOnly"]
    assert loader.INPUT_TYPES()["required"]["lora_name"] == (["sub/style.safetensors"],)
    for name in ("sub/style.safetensors", "sub\\style.safetensors"):
        assert loader.VALIDATE_INPUTS(name)
        (model,) = loader().load_lora_model_only(file.model, name, 0.5)
        assert len(model.changes) == len(style[2])
    with pytest.raises(ValueError, match=r"other.safetensors is not in .*loras; put it there"):
        loader.VALIDATE_INPUTS("other.safetensors")
    assert loader.IS_CHANGED("sub/style.safetensors", strength_model=1.0)


def test_strength_zero_changes_nothing(style):
    file, path, *_ = style
    assert STOCK["LoraLoader"]().load_lora(file.model, file.clip, str(path), 0, 0) == (file.model, file.clip)
    assert STOCK["LoraLoaderModelOnly"]().load_lora_model_only(file.model, str(path), 0) == (file.model,)
    model, clip = STOCK["LoraLoader"]().load_lora(file.model, file.clip, str(path), 0, 1.0)
    assert model.changed_unet is file.model.unet
    assert clip.changes


# Files for other models


def refused(load, tmp_path, tensors, kind="v2-base", text=True):
    file = load(kind)
    path = write_lora(tmp_path / "other.safetensors", tensors)
    with pytest.raises(ValueError, match=r"^other.safetensors ") as caught:
        apply_lora(path, file.model, file.clip if text else None, 1.0, 1.0)
    return str(caught.value)


def layer(name, out, into, rank=RANK):
    return {f"{name}.lora_up.weight": torch.rand(out, rank), f"{name}.lora_down.weight": torch.rand(rank, into)}


KEY = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (layer(KEY, 128, 768), "is for Stable Diffusion 1.x and does not fit v2-base.safetensors (its layer"),
        (layer(KEY, 128, 2048), "is for SDXL and does not fit"),
        (layer(KEY.replace("blocks_0_attn2", "blocks_1_attn2"), 128, 64), "is for SDXL and does not fit"),
        (
            layer("lora_te2_text_model_encoder_layers_0_mlp_fc1", 8, 8) | layer(KEY, 128, 2048),
            "has shape [128, 2048] instead of [128, 64]",
        ),
        (layer(KEY, 96, 64), "has shape [96, 64] instead of [128, 64]); choose a LoRA for this model"),
        (
            layer("transformer.single_blocks.0.linear1", 8, 8),
            "does not fit v2-base.safetensors (which has no layer transformer.single_blocks.0.linear1)",
        ),
        (
            layer("lora_te_text_model_encoder_layers_0_mlp_fc1", 8, 8),
            "lora_te_text_model_encoder_layers_0_mlp_fc1 has shape [8, 8] instead of [256, 64]",
        ),
        ({f"{KEY}.lora_up.weight": torch.rand(128, 4)}, f"{KEY} has no down"),
        ({"input_blocks.1.0.op.weight": torch.rand(4, 4)}, "is not a LoRA that can be read (its first key is input"),
        ({f"{KEY}.oft_blocks": torch.rand(4, 4, 4), f"{KEY}.alpha": torch.tensor(1.0)}, "is not a LoRA that can be"),
    ],
)
def test_a_file_for_another_model_is_refused(load, tmp_path, tensors, sentence):
    assert sentence in refused(load, tmp_path, tensors)


def test_a_lora_of_the_text_encoder_alone_needs_one(load, tmp_path):
    tensors = layer("lora_te_text_model_encoder_layers_0_mlp_fc1", 256, 64)
    assert "it changes the text encoder alone" in refused(load, tmp_path, tensors, text=False)


def test_the_sizes_of_the_other_version_tell_what_to_choose(tmp_path):
    """A model of the official widths, on meta."""
    from sd2_family.models.specs import SPECS
    from sd2_family.models.unet import UNet

    with torch.device("meta"):
        unet = UNet(replace(tiny_spec("v1").unet, context_dim=SPECS["v1"].unet.context_dim))
    path = write_lora(tmp_path / "two.safetensors", layer(KEY, 128, 1024))
    with pytest.raises(
        ValueError, match=r"is for Stable Diffusion 2.x and .*; choose a LoRA for Stable Diffusion 1.x"
    ):
        lora.fit(lora.read(path), "m", unet, None, unet_strength=1.0)


def test_layers_that_are_not_there_are_named_once(style, tmp_path, caplog):
    file, *_ = style
    tensors = layer(KEY, 128, 64) | layer("lora_unet_elsewhere", 4, 4) | {"some.vector": torch.rand(3)}
    path = write_lora(tmp_path / "more.safetensors", tensors)
    with caplog.at_level(logging.WARNING, "sd2_family"):
        model, _ = apply_lora(path, file.model, file.clip, 1.0, 1.0)
    (record,) = caplog.records
    assert record.message == (
        "more.safetensors has 2 parts that v2-base.safetensors cannot take, which are left out (some.vector, ...)"
    )
    assert len(model.changes) == 1


def test_the_first_layer_of_an_inpainting_model_may_be_wider(load, tmp_path, caplog):
    file = load("v2-inpaint")
    tensors = layer(KEY, 128, 64) | {
        "lora_unet_conv_in.lora_up.weight": torch.rand(64, 4, 1, 1),
        "lora_unet_conv_in.lora_down.weight": torch.rand(4, 4, 3, 3),
    }
    path = write_lora(tmp_path / "style.safetensors", tensors)
    with caplog.at_level(logging.WARNING, "sd2_family"):
        model, _ = apply_lora(path, file.model, file.clip, 1.0, 1.0)
    assert "lora_unet_conv_in has shape [64, 36] instead of [64, 9, 3, 3]" in caplog.text
    assert len(model.changes) == 1


def test_a_layer_that_nothing_reads_is_not_worth_a_warning(style, tmp_path, caplog):
    file, *_ = style
    path = write_lora(tmp_path / "style.safetensors", layer(KEY, 128, 64) | layer("lora_te1_text_projection", 64, 64))
    with caplog.at_level(logging.WARNING, "sd2_family"):
        apply_lora(path, file.model, file.clip, 1.0, 1.0)
    assert not caplog.records
