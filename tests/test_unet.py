"""The UNet at tiny widths: against diffusers with the same weights, and its ComfyUI hooks."""

import warnings
from dataclasses import replace

import pytest
import torch
from diffusers_keys import diffusers_unet
from random_unets import SPECS, TINY, inputs, random_unet
from sd2_family.models.attention import attention
from sd2_family.models.unet import UNet
from torch import nn


def diffusers_output(unet, x, timesteps, context, y, **residuals):
    model = diffusers_unet(unet)
    return model(x, timesteps, context, class_labels=y, **residuals).sample.detach()


# float32, outputs of standard deviation 1: two orders of summation differ by about 1e-6
TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize("size", [(20, 12), (13, 9)])
@pytest.mark.parametrize("kind", SPECS)
def test_same_output_as_diffusers(kind, size):
    unet = random_unet(SPECS[kind])
    given = inputs(SPECS[kind], *size)
    torch.testing.assert_close(unet(**given), diffusers_output(unet, **given), **TOLERANCE)


def test_output_depends_on_every_tensor():
    for spec in SPECS.values():
        unet = random_unet(spec).requires_grad_(True)
        unet(**inputs(spec)).square().sum().backward()
        silent = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()]
        assert silent == []


def test_class_conditioning_is_needed_where_the_model_has_it_and_nowhere_else():
    given = inputs(SPECS["unclip"])
    with pytest.raises(ValueError, match="does not take class conditioning"):
        random_unet(SPECS["v2"])(**given)
    with pytest.raises(ValueError, match="needs class conditioning"):
        random_unet(SPECS["unclip"])(**{**given, "y": None})


def test_heads_must_share_the_channels_out():
    with pytest.raises(ValueError, match="32 channels"):
        UNet(replace(TINY, head_channels=64))


def test_dtype_is_the_weights_and_the_output_keeps_it():
    unet = random_unet(TINY).to(torch.bfloat16)
    given = inputs(TINY)
    given |= {"x": given["x"].bfloat16(), "context": given["context"].bfloat16()}
    assert unet.dtype == torch.bfloat16
    assert unet(**given).dtype == torch.bfloat16


def test_attention_of_large_half_precision_scores_is_computed_in_float32(monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 6, 8) for _ in range(3))
    q, k = q * 600, k * 600  # q k^T is far above 65504, the largest float16
    q, k, v = q.half(), k.half(), v.half()
    scores = torch.einsum("bnhd,bmhd->bhnm", q.double().view(2, 6, 2, 4), k.double().view(2, 6, 2, 4)) / 4**0.5
    want = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v.double().view(2, 6, 2, 4)).flatten(2)
    dtypes = []

    def kernel(q, k, v, **options):  # some devices' half-precision kernels overflow, a CPU's does not
        dtypes.append(q.dtype)
        return nn.functional.scaled_dot_product_attention(q, k, v, **options)

    monkeypatch.setattr("sd2_family.models.attention.scaled_dot_product_attention", kernel)
    assert scores.abs().max() > 65504
    torch.testing.assert_close(attention(q, k, v, 2), want.half(), rtol=0, atol=2e-3)  # float16 has 11 bits
    attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), 2)
    assert dtypes == [torch.float32, torch.bfloat16]


# --- hooks: two levels of one residual block each, on 8x6 latents ---

HOOKED = replace(TINY, channel_mult=(1, 2), num_res_blocks=1, attention=(True, True), self_attention=(True, True))
INPUT_SHAPES = {0: (32, 8, 6), 1: (32, 8, 6), 2: (32, 4, 3), 3: (64, 4, 3)}
SKIP_SHAPES = {0: (64, 4, 3), 1: (32, 4, 3), 2: (32, 8, 6), 3: (32, 8, 6)}
OUTPUT_SHAPES = {0: (64, 4, 3), 1: (64, 4, 3), 2: (64, 8, 6), 3: (32, 8, 6)}
# block, channels and height x width of every transformer, in the order they run
TRANSFORMERS = [
    (("input", 1), 32, (8, 6)),
    (("input", 3), 64, (4, 3)),
    (("middle", 0), 64, (4, 3)),
    (("output", 0), 64, (4, 3)),
    (("output", 1), 64, (4, 3)),
    (("output", 2), 32, (8, 6)),
    (("output", 3), 32, (8, 6)),
]
PATCHES = (
    "attn1_patch",
    "attn2_patch",
    "attn1_output_patch",
    "attn2_output_patch",
    "middle_patch",
    "input_block_patch",
    "input_block_patch_after_skip",
    "output_block_patch",
    "emb_patch",
)


@pytest.fixture(scope="module")
def hooked():
    return random_unet(HOOKED)


@pytest.fixture
def given():
    return inputs(HOOKED, 8, 6)


def recorder(calls, change=lambda tensors: tensors):
    """A patch of any kind: notes the tensors it is called with and where, and returns them changed."""

    def patch(*arguments):
        options = arguments[-1]
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        calls.append((options.get("block"), [tuple(t.shape) for t in tensors], dict(options)))
        tensors = change(tensors)
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    return patch


@pytest.mark.parametrize("name", PATCHES)
def test_each_patch_is_called_and_can_change_the_output(hooked, given, name):
    plain = hooked(**given)
    calls = []
    same = hooked(**given, transformer_options={"patches": {name: [recorder(calls)]}})
    assert len(calls) > 0
    assert torch.equal(same, plain)
    double = recorder([], lambda tensors: [2 * t for t in tensors])
    changed = hooked(**given, transformer_options={"patches": {name: [double]}})
    assert (changed - plain).abs().max() > 1e-3


def test_patches_of_one_name_run_in_order(hooked, given):
    plain = hooked(**given)
    double, halve = (recorder([], lambda tensors, f=f: [f * t for t in tensors]) for f in (2, 0.5))
    assert torch.equal(hooked(**given, transformer_options={"patches": {"middle_patch": [double, halve]}}), plain)


@pytest.mark.parametrize("name", ["attn1_patch", "attn2_patch"])
def test_attention_patches_see_query_key_and_value_inputs(hooked, given, name):
    calls = []
    hooked(**given, transformer_options={"patches": {name: [recorder(calls)]}, "cond_or_uncond": [1, 0]})
    assert [block for block, _, _ in calls] == [block for block, _, _ in TRANSFORMERS]
    for index, (_, shapes, options) in enumerate(calls):
        _, channels, (height, width) = TRANSFORMERS[index]
        tokens = (2, height * width, channels)
        context = tokens if name == "attn1_patch" else (2, 7, 24)
        assert shapes == [tokens, context, context]
        assert options["transformer_index"] == index
        assert options["block_index"] == 0
        assert options["activations_shape"] == [2, channels, height, width]
        assert options["original_shape"] == [2, 4, 8, 6]
        assert options["n_heads"] == channels // 16
        assert options["dim_head"] == 16
        assert options["attn_precision"] is None
        assert options["cond_or_uncond"] == [1, 0]


@pytest.mark.parametrize("name", ["attn1_output_patch", "middle_patch", "attn2_output_patch"])
def test_token_patches_see_the_tokens_of_every_transformer(hooked, given, name):
    calls = []
    hooked(**given, transformer_options={"patches": {name: [recorder(calls)]}})
    want = [(block, [(2, height * width, channels)]) for block, channels, (height, width) in TRANSFORMERS]
    assert [(block, shapes) for block, shapes, _ in calls] == want


@pytest.mark.parametrize("name", ["input_block_patch", "input_block_patch_after_skip"])
def test_input_patches_see_every_input_block(hooked, given, name):
    calls = []
    hooked(**given, transformer_options={"patches": {name: [recorder(calls)]}})
    want = [(("input", index), [(2, *shape)]) for index, shape in INPUT_SHAPES.items()]
    assert [(block, shapes) for block, shapes, _ in calls] == want


def test_output_patches_see_the_features_and_the_skip(hooked, given):
    calls = []
    hooked(**given, transformer_options={"patches": {"output_block_patch": [recorder(calls)]}})
    want = [(("output", i), [(2, *OUTPUT_SHAPES[i]), (2, *SKIP_SHAPES[i])]) for i in OUTPUT_SHAPES]
    assert [(block, shapes) for block, shapes, _ in calls] == want


def test_embedding_patch_sees_the_timestep_embedding_without_the_class(given):
    unet = random_unet(replace(HOOKED, vector_dim=20))
    seen = []

    def patch(emb, model_channels, options):
        seen.append((emb.clone(), model_channels))
        return emb

    for y in (torch.zeros(2, 20), torch.ones(2, 20)):
        unet(**{**given, "y": y}, transformer_options={"patches": {"emb_patch": [patch]}})
    assert seen[0][0].shape == (2, 128)
    assert seen[0][1] == 32
    assert torch.equal(seen[0][0], seen[1][0])


def test_patch_before_the_skip_reaches_it_and_patch_after_does_not(hooked, given):
    def skips(name):
        zero = recorder([], lambda tensors: [0 * t for t in tensors])
        seen = []

        def keep(h, skip, options):
            seen.append(skip)
            return h, skip

        hooked(**given, transformer_options={"patches": {name: [zero], "output_block_patch": [keep]}})
        return seen

    assert not any(skip.any() for skip in skips("input_block_patch"))
    assert all(skip.any() for skip in skips("input_block_patch_after_skip"))


@pytest.mark.parametrize("name", ["attn1", "attn2"])
@pytest.mark.parametrize("key", [("output", 1), ("output", 1, 0)])
def test_replacement_attention_runs_in_its_block_only(hooked, given, name, key):
    plain = hooked(**given)
    calls = []

    def replacement(q, k, v, options):
        calls.append((options["block"], tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return attention(q, k, v, options["n_heads"])

    same = hooked(**given, transformer_options={"patches_replace": {name: {key: replacement}}})
    keys = (2, 12, 64) if name == "attn1" else (2, 7, 64)
    assert calls == [(("output", 1), (2, 12, 64), keys, keys)]
    assert torch.equal(same, plain)
    zero = {"patches_replace": {name: {key: lambda q, k, v, options: torch.zeros_like(q)}}}
    assert (hooked(**given, transformer_options=zero) - plain).abs().max() > 1e-3


def test_replacement_of_one_transformer_block_wins_over_that_of_the_unet_block(hooked, given):
    calls = []

    def replacement(key):
        return lambda q, k, v, options: (calls.append(key), attention(q, k, v, options["n_heads"]))[1]

    both = {key: replacement(key) for key in (("middle", 0), ("middle", 0, 0))}
    hooked(**given, transformer_options={"patches_replace": {"attn1": both}})
    assert calls == [("middle", 0, 0)]


def test_attention_override_is_given_every_call(hooked, given):
    plain = hooked(**given)
    calls = []

    def override(function, *arguments, **options):
        calls.append((options["transformer_options"]["block"], arguments[3], options["_inside_attn_wrapper"]))
        return function(*arguments, **options)

    same = hooked(**given, transformer_options={"optimized_attention_override": override})
    assert calls == [(block, channels // 16, True) for block, channels, _ in TRANSFORMERS for _ in ("attn1", "attn2")]
    assert torch.equal(same, plain)
    off = {"optimized_attention_override": lambda function, q, *rest, **options: torch.zeros_like(q)}
    assert (hooked(**given, transformer_options=off) - plain).abs().max() > 1e-3


def test_query_may_be_tiled_alone():
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 3, 8), torch.randn(1, 20, 8), torch.randn(1, 20, 8)
    tiles = [attention(q[i : i + 1], k[:, 5 * i : 5 * i + 5], v[:, 5 * i : 5 * i + 5], 2) for i in range(4)]
    torch.testing.assert_close(attention(q, k, v, 2), torch.cat(tiles), rtol=0, atol=1e-6)


def test_control_of_middle_and_output_is_diffusers_controlnet(hooked, given):
    torch.manual_seed(2)
    output = [0.02 * torch.randn(2, *shape) for shape in INPUT_SHAPES.values()]
    middle = 0.02 * torch.randn(2, 64, 4, 3)
    residuals = {"down_block_additional_residuals": output, "mid_block_additional_residual": middle}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        want = diffusers_output(hooked, **given, **residuals)
    control = {"input": [], "middle": [middle], "output": output}
    torch.testing.assert_close(hooked(**given, control=control), want, **TOLERANCE)
    assert (want - hooked(**given)).abs().max() > 1e-2
    assert len(control["output"]) == 4  # the caller's lists are left as they were


def test_control_of_input_is_added_to_the_features_and_the_skips(hooked, given):
    torch.manual_seed(2)
    residuals = {index: 0.02 * torch.randn(2, *shape) for index, shape in INPUT_SHAPES.items()}
    residuals[2] = None

    def add(h, options):
        residual = residuals[options["block"][1]]
        return h if residual is None else h + residual

    want = hooked(**given, transformer_options={"patches": {"input_block_patch": [add]}})
    control = {"input": [residuals[index] for index in (3, 2, 1, 0)]}  # taken from the end
    assert torch.equal(hooked(**given, control=control), want)
    assert (want - hooked(**given)).abs().max() > 1e-2


def test_control_residual_of_another_size_is_left_out_with_a_warning(hooked, given, caplog):
    same = hooked(**given, control={"middle": [torch.randn(2, 64, 5, 3)]})
    assert torch.equal(same, hooked(**given))
    assert "does not fit" in caplog.text


def test_transformer_options_of_the_caller_are_left_as_they_were(hooked, given):
    options = {"patches": {}, "sigmas": 1}
    hooked(**given, transformer_options=options)
    assert options == {"patches": {}, "sigmas": 1}
