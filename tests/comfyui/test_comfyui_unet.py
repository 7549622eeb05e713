"""Our UNet against ComfyUI's own with the same weights and the same patches."""

import importlib
import math
import sys
from dataclasses import replace

import pytest
import torch
from live import PATH, missing
from random_unets import SPECS, inputs, random_unet
from sd2_family.models.unet import UNet

pytestmark = pytest.mark.comfyui

# float32, outputs of standard deviation 1; another attention kernel rounds differently
TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def comfy_unet_class():
    if reason := missing():
        pytest.skip(reason)
    sys.path.append(str(PATH))
    importlib.import_module("comfy.cli_args").args.cpu = True
    return importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel


def comfy_unet(unet_class, unet):
    """ComfyUI's UNet with the weights of ours."""
    spec = unet.spec
    depth = [int(attention) for attention in spec.attention for _ in range(spec.num_res_blocks)]
    depth_output = [int(attention) for attention in spec.attention for _ in range(spec.num_res_blocks + 1)]
    classes = spec.num_classes if spec.vector_dim is None else "sequential"
    model = unet_class(
        image_size=32,
        in_channels=spec.in_channels,
        out_channels=spec.out_channels,
        model_channels=spec.model_channels,
        channel_mult=spec.channel_mult,
        num_res_blocks=spec.num_res_blocks,
        num_heads=spec.heads or -1,
        num_head_channels=-1 if spec.heads else spec.head_channels,
        num_classes=classes,
        adm_in_channels=spec.vector_dim,
        use_spatial_transformer=True,
        transformer_depth=depth,
        transformer_depth_output=depth_output,
        transformer_depth_middle=1,
        context_dim=spec.context_dim,
        use_linear_in_transformer=spec.linear_projection,
        disable_self_attentions=[not attention for attention in spec.self_attention],
        legacy=False,
    )
    model.load_state_dict(unet.state_dict())
    return model.eval().requires_grad_(False)


def every_patch():
    """One patch of each kind, whose effect depends on where ComfyUI says it is."""

    def place(options):
        name, index = options.get("block", ("none", 0))
        here = len(name) + index + options["transformer_index"] + options.get("block_index", 0) + options["sigma"]
        return 1 + 0.3 * math.sin(here + options.get("activations_shape", [0] * 4)[2] + options["original_shape"][3])

    def scale(h, options):
        return h * place(options)

    def scale_context(q, k, v, options):
        return q * place(options), k * (1 + 0.01 * options["n_heads"]), v * (1 + 0.01 * options["dim_head"])

    def replacement(q, k, v, options):
        return v[:, :1] * place(options) + 0.1 * q

    return {
        "sigma": 0.5,
        "patches": {
            "attn1_patch": [scale_context],
            "attn2_patch": [scale_context, scale_context],
            "attn1_output_patch": [scale],
            "attn2_output_patch": [scale],
            "middle_patch": [scale],
            "input_block_patch": [scale],
            "input_block_patch_after_skip": [scale],
            "output_block_patch": [lambda h, skip, options: (h * place(options), skip * (2 - place(options)))],
            "emb_patch": [lambda emb, model_channels, options: emb * (1 + 1 / model_channels)],
        },
        "patches_replace": {
            "attn1": {("middle", 0): replacement, ("output", 4, 0): replacement},
            "attn2": {("output", 5): replacement, ("input", 5, 0): replacement},
        },
    }


def every_residual(unet, given):
    """A ControlNet residual for every second block, in the order ComfyUI takes them."""
    shapes = []

    def keep(h, options):
        shapes.append(h.shape)
        return h

    unet(**given, transformer_options={"patches": {"input_block_patch": [keep]}})
    torch.manual_seed(3)
    residuals = [0.02 * torch.randn(shape) if index % 2 else None for index, shape in enumerate(shapes)]
    return {"input": residuals[::-1], "middle": [0.02 * torch.randn(shapes[-1])], "output": list(residuals)}


@pytest.mark.parametrize("size", [(16, 16), (13, 9)])
@pytest.mark.parametrize("kind", SPECS)
def test_same_output_as_comfyui(comfy_unet_class, kind, size):
    unet = random_unet(SPECS[kind])
    given = inputs(SPECS[kind], *size)
    want = comfy_unet(comfy_unet_class, unet)(**given, transformer_options={})
    torch.testing.assert_close(unet(**given), want, **TOLERANCE)


@pytest.mark.parametrize("kind", SPECS)
def test_same_output_as_comfyui_with_every_patch_and_control(comfy_unet_class, kind):
    unet = random_unet(SPECS[kind])
    given = inputs(SPECS[kind])
    control = {name: list(residuals) for name, residuals in every_residual(unet, given).items()}
    model = comfy_unet(comfy_unet_class, unet)
    ours = unet(**given, control=control, transformer_options=every_patch())
    want = model(**given, control=control, transformer_options=every_patch())
    torch.testing.assert_close(ours, want, **TOLERANCE)
    assert (want - unet(**given)).abs().max() > 0.1


def test_attention_override_is_called_as_comfyui_calls_it(comfy_unet_class):
    unet = random_unet(SPECS["v2"])
    given = inputs(SPECS["v2"])
    calls = {"ours": [], "comfy": []}

    def override(name):
        def call(function, q, k, v, heads, *rest, **options):
            calls[name].append((tuple(q.shape), tuple(k.shape), heads, rest, sorted(options)))
            return function(q, k, v, heads, *rest, **options)

        return {"optimized_attention_override": call}

    unet(**given, transformer_options=override("ours"))
    comfy_unet(comfy_unet_class, unet)(**given, transformer_options=override("comfy"))
    assert calls["ours"] == calls["comfy"]


def test_comfyui_can_run_its_own_attention_in_ours(comfy_unet_class):
    comfy_attention = importlib.import_module("comfy.ldm.modules.attention")
    unet = random_unet(SPECS["v2"])
    given = inputs(SPECS["v2"])
    options = {"optimized_attention_override": lambda function, *a, **o: comfy_attention.attention_sub_quad(*a, **o)}
    torch.testing.assert_close(unet(**given, transformer_options=options), unet(**given), **TOLERANCE)


def test_tiled_attention_of_hypertile(comfy_unet_class):
    """ComfyUI's HyperTile tiles the query alone."""
    spec = replace(SPECS["v2"], attention=(True, False, False))
    unet = random_unet(spec)
    given = inputs(spec, 64, 64)
    rearrange = importlib.import_module("einops").rearrange

    def tile(q, k, v, options):
        if q.shape[1] == 64 * 64:
            q = rearrange(q, "b (nh h nw w) c -> (b nh nw) (h w) c", nh=2, nw=2, h=32, w=32)
        return q, k, v

    def untile(out, options):
        if out.shape[1] == 32 * 32 and options["block"][0] != "middle":
            out = rearrange(out, "(b nh nw) (h w) c -> b (nh h nw w) c", nh=2, nw=2, h=32, w=32)
        return out

    patches = {"attn1_patch": [tile], "attn1_output_patch": [untile]}
    want = comfy_unet(comfy_unet_class, unet)(**given, transformer_options={"patches": dict(patches)})
    torch.testing.assert_close(unet(**given, transformer_options={"patches": patches}), want, **TOLERANCE)


def test_ours_loads_what_comfyui_saves(comfy_unet_class):
    unet = random_unet(SPECS["x4"])
    again = UNet(SPECS["x4"])
    again.load_state_dict(comfy_unet(comfy_unet_class, unet).state_dict())
    given = inputs(SPECS["x4"])
    assert torch.equal(again(**given), unet(**given))
