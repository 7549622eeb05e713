"""ControlNets: the network against diffusers', its file in every layout, and what it does to a run."""

from dataclasses import replace

import pytest
import torch
from controlnet_files import LAYOUTS, differences, diffusers_names, random_controlnet, write_controlnet
from diffusers import ControlNetModel
from diffusers_keys import diffusers_unet
from helpers import empty, picture, prompts
from random_unets import SPECS, inputs, random_unet
from safetensors.torch import load_file, save_file
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.models.controlnet_file import load_controlnet
from sd2_family.models.unet import UNet
from sd2_family.pipeline import control
from sd2_family.pipeline.control import apply_control, load_control_model
from sd2_family.pipeline.images import scale
from sd2_family.samplers import NoiseSchedule
from tiny import tiny_state, write_checkpoint
from torch.nn import functional as F

KINDS = ("v1", "v2-base")
UNET = "model.diffusion_model."


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The network


def diffusers_controlnet(network):
    """Diffusers' ControlNet with the weights of ours."""
    unet = diffusers_unet(random_unet(network.spec))
    model = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96, 256))
    model.load_state_dict(diffusers_names(network.state_dict(), 1 + network.spec.num_res_blocks))
    return model.eval()


@pytest.mark.parametrize("size", [(20, 12), (13, 9)])
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_residuals_and_output_are_those_of_diffusers(kind, size):
    unet, network = random_unet(SPECS[kind]), random_controlnet(spec=SPECS[kind])
    given = inputs(SPECS[kind], *size)
    hint = torch.rand(2, 3, 8 * size[0], 8 * size[1])
    ours = network(given["x"], hint, given["timesteps"], given["context"])
    with torch.no_grad():
        theirs = diffusers_controlnet(network)(given["x"], given["timesteps"], given["context"], hint)
        expected = diffusers_unet(unet)(
            given["x"],
            given["timesteps"],
            given["context"],
            down_block_additional_residuals=theirs.down_block_res_samples,
            mid_block_additional_residual=theirs.mid_block_res_sample,
        ).sample
    for mine, other in zip(ours["output"], theirs.down_block_res_samples, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours["middle"][0], theirs.mid_block_res_sample, rtol=0, atol=1e-4)
    output = unet(**given, control=ours)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
    assert (output - unet(**given)).std() > 0.1


def test_residuals_depend_on_every_tensor():
    network = random_controlnet(spec=SPECS["v2"]).requires_grad_(True)
    given = inputs(SPECS["v2"])
    residuals = network(given["x"], torch.rand(2, 3, 160, 96), given["timesteps"], given["context"])
    sum(residual.square().sum() for of_name in residuals.values() for residual in of_name).backward()
    assert [name for name, tensor in network.named_parameters() if tensor.grad is None or not tensor.grad.any()] == []


# Files


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_the_same_weights(tmp_path, kind, layout):
    path = write_controlnet(tmp_path / "a.safetensors", kind, layout=layout)
    loaded = load_controlnet(path, lambda: {key.removeprefix(UNET): t for key, t in tiny_state(kind).items()})
    expected = random_controlnet(kind)
    assert loaded.spec == expected.spec
    state = loaded.state_dict()
    for key, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[key], tensor, rtol=0, atol=1e-6 if layout == "differences" else 0)


def test_a_file_beside_a_whole_model_and_an_unread_key(tmp_path):
    state = random_controlnet().state_dict()
    whole = {f"control_model.{key}": tensor for key, tensor in state.items()} | tiny_state("v2-base")
    save_file({key: tensor.clone() for key, tensor in whole.items()}, tmp_path / "whole.safetensors")
    assert same(load_controlnet(tmp_path / "whole.safetensors").state_dict(), state)
    save_file({key: t.clone() for key, t in state.items()} | {"step": torch.zeros(1)}, tmp_path / "bare.safetensors")
    assert same(load_controlnet(tmp_path / "bare.safetensors").state_dict(), state)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert same(load_controlnet(tmp_path / "a.pth").state_dict(), state)


def test_differences_are_to_the_model_with_its_loras_and_need_one(tmp_path, load):
    path = write_controlnet(tmp_path / "a.safetensors", layout="differences")
    with pytest.raises(ValueError, match=r"a\.safetensors has the differences .* load it with DiffControlNetLoader"):
        load_controlnet(path)
    model = load("v2-base").model
    state = load_control_model(path, model).network.state_dict()
    torch.testing.assert_close(state, dict(random_controlnet().state_dict()), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"differences to another model: its .*; connect the model"):
        load_control_model(path, load("v1").model)
    plain = write_controlnet(tmp_path / "b.safetensors")
    assert same(load_control_model(plain, model).network.state_dict(), random_controlnet().state_dict())
    changed = differences(random_controlnet().state_dict(), "v2-base")
    assert max(float(tensor.abs().max()) for tensor in changed.values()) > 0.1


T2I = {"body.0.in_conv.weight": (8, 8, 1, 1), "conv_in.weight": (8, 192, 3, 3)}
OTHERS = {
    "T2I-Adapter, which runs only in ComfyUI; run the workflow with --comfyui": T2I,
    "a Control-LoRA, which runs only in ComfyUI": {"lora_controlnet": (1,), "input_blocks.0.0.up": (4, 4)},
    "a ControlNet for SDXL; choose": {"control_model.label_emb.0.0.weight": (4, 4), "zero_convs.0.0.weight": (4,)},
    "a ControlNet for another family of models; choose": {"controlnet_blocks.0.weight": (4, 4)},
    "a LoRA; load it with a LoRA loader": {"lora_unet_mid_block.lora_up.weight": (4, 4)},
    "is not a ControlNet": {"something": (4,)},
    "a ControlNet without middle_block.1.proj_in.weight; download it again": {"zero_convs.0.0.weight": (4, 4, 1, 1)},
}


@pytest.mark.parametrize("sentence", OTHERS)
def test_other_files_are_refused_by_what_they_are(tmp_path, sentence):
    save_file({key: torch.zeros(shape) for key, shape in OTHERS[sentence].items()}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors ") as refused:
        load_controlnet(tmp_path / "a.safetensors")
    assert sentence in str(refused.value)


def test_a_checkpoint_and_a_damaged_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is only an autoencoder"):
        load_controlnet(write_checkpoint(tmp_path / "c.safetensors", "v2-base"))
    state = load_file(write_controlnet(tmp_path / "a.safetensors"))
    del state["control_model.zero_convs.1.0.bias"]
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"1 missing key \(zero_convs\.1\.0\.bias\)"):
        load_controlnet(tmp_path / "a.safetensors")
    state["control_model.input_hint_block.0.weight"] = torch.zeros(16, 4, 3, 3)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="images of 4 channels and latents of 4, not 3 and 4"):
        load_controlnet(tmp_path / "a.safetensors")


# In a run


@pytest.fixture
def models(tmp_path):
    """models(name, kind): a ControlNet from a file."""

    def models(name="a", kind="v2-base", **options):
        return load_control_model(write_controlnet(tmp_path / f"{name}.safetensors", kind, **options))

    return models


def sampled(file, positive, negative, **options):
    widgets = {"seed": 5, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"positive": positive, "negative": negative, "latent_image": empty(2)}
    return STOCK["KSampler"]().sample(file.model, **links, **widgets | options)[0]["samples"]


def gap(a, b):
    return float((a - b).abs().max() / b.std())


def by_hand(file, sides, controls, **widgets):
    """The same run with residuals that are added up by hand, call by call."""
    steps = []

    def forward(unet, x, t, context, y=None, control=None):
        steps.append(int(t[0]))
        residuals = None
        for network, hint, strength, span in controls:
            if not span[0] >= int(t[0]) >= span[1]:
                continue
            # the same hint for every entry and both images
            given = network(x, hint.repeat(len(x), 1, 1, 1), t, context)
            given = {name: [strength * part for part in parts] for name, parts in given.items()}
            if residuals is not None:
                given = {name: [a + b for a, b in zip(residuals[name], given[name], strict=True)] for name in given}
            residuals = given
        return original(unet, x, t, context, y, residuals)

    original = UNet.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet, "forward", forward)
        result = sampled(file, *sides, **widgets)
    return result, steps


def hint_of(image):
    """What the network sees of an image for a latent of 8 x 8."""
    return F.interpolate(image.movedim(-1, 1), size=(64, 64), mode="nearest-exact")


def test_strength_and_percents_of_two_in_a_chain(load, models):
    file, sides = load("v2-base"), prompts(load("v2-base"), "a cat", "")
    a, b, image, other = models("a"), models("b", seed=9), picture(40, 40), picture(96, 96)
    once = apply_control(a, image, *sides, strength=0.7)
    both = apply_control(b, other, *once, strength=0.4, start=0.3, end=0.7)
    controls = [
        (a.network, hint_of(image), 0.7, (999, 0)),
        (b.network, hint_of(other), 0.4, (0.7 * 999, 0.3 * 999)),
    ]
    mine, (expected, steps) = sampled(file, *both), by_hand(file, sides, controls)
    assert [0.3 * 999 <= step <= 0.7 * 999 for step in steps] == [False, True, True, False]
    assert gap(mine, expected) < 1e-4
    for others in (sides, once):
        assert gap(sampled(file, *others), expected) > 0.05
    assert "control" not in sides[0][0][1]
    assert apply_control(a, image, *sides, strength=0) == sides


def test_a_control_of_the_positive_side_alone_and_one_that_asks_for_both(load, models):
    file, sides = load("v2-base"), prompts(load("v2-base"), "a cat", "")
    a, image = models(), picture()
    alone = apply_control(a, image, sides[0], strength=1.0)
    old = STOCK["ControlNetApply"]().apply_controlnet(sides[0], a, image, 1.0)
    both = apply_control(a, image, *sides, strength=1.0)
    assert gap(sampled(file, *old, sides[1]), sampled(file, *both)) < 1e-5
    assert gap(sampled(file, *alone, sides[1]), sampled(file, *both)) > 0.05
    own = apply_control(a, image, sides[1], strength=0.5)  # the negative side keeps its own
    assert gap(sampled(file, *old, *own), sampled(file, *both)) > 0.05
    calls = by_hand(file, both, [])[1]
    assert len(calls) == 4  # one for both sides


def test_images_of_a_batch_go_with_their_latents_and_are_cropped(load, models):
    file, sides = load("v2-base"), prompts(load("v2-base"), "a cat", "")
    a, images = models(), picture(64, 96, count=3)
    batch = sampled(file, *apply_control(a, images, *sides, strength=1.0))
    second = sampled(file, *apply_control(a, images[1:2], *sides, strength=1.0))
    assert gap(batch[1:], second[1:]) < 1e-4
    assert gap(batch[:1], second[:1]) > 5e-3
    cut = scale(images[:, :, 16:80], 64, 64, method="nearest-exact")
    assert gap(sampled(file, *apply_control(a, cut, *sides, strength=1.0)), batch) < 1e-5


def test_pooled_residuals_by_the_files_name(load, models):
    file, sides = load("v2-base"), prompts(load("v2-base"), "a cat", "")
    plain, pooled = models("scribble"), models("v11e_sd15_shuffle_fp16")
    assert (plain.pooled, pooled.pooled, models("shuffled").pooled) == (False, True, False)
    image, placed = picture(), {}
    latent = torch.randn(2, 4, 8, 8)
    for model in (plain, pooled):
        ((_, options),) = apply_control(model, image, sides[0], strength=2.0)[0]
        (placed[model.name],) = control.place_controls(options["control"], file.model, latent, 1)
    given = latent, torch.tensor([500.0, 500.0]), sides[0][0][0].repeat(2, 1, 1)
    a, b = (one.residuals(*given)["output"][1] for one in placed.values())
    torch.testing.assert_close(a.mean((2, 3), keepdim=True).expand_as(a), b, rtol=0, atol=1e-5)


def test_an_inpainting_model_takes_it_and_another_family_does_not(load, models):
    file = load("v2-inpaint")
    sides = prompts(file, "a cat", "")
    steered = apply_control(models(), picture(), *sides, strength=1.0)
    assert gap(sampled(file, *steered), sampled(file, *sides)) > 0.05
    for kind, other in (("v1", "v2-base"), ("v2-base", "v1")):
        file = load(other)
        steered = apply_control(models("b", kind), picture(), *prompts(file, "a cat", ""), strength=1.0)
        with pytest.raises(ValueError, match=r"b\.safetensors is a ControlNet for .*; choose a ControlNet for"):
            sampled(file, *steered)


def test_an_area_takes_the_whole_image_and_the_other_side_its_control(load, models):
    file = load("v2-base")
    sides = prompts(file, "a cat", "")
    a, image = models(), picture()
    steered = apply_control(a, image, sides[0], strength=1.0)[0]
    (part,) = STOCK["ConditioningSetArea"]().append(steered, 64, 64, 0, 0, 1.0)
    wide = {"latent_image": {"samples": torch.zeros(1, 4, 8, 16)}}
    widgets = {"seed": 5, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    hints = []
    forward = type(a.network).forward

    def noted(network, x, hint, *rest):
        hints.append(hint)
        return forward(network, x, hint, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(a.network), "forward", noted)
        STOCK["KSampler"]().sample(file.model, positive=sides[0] + part, negative=sides[1], **wide, **widgets)
    assert {tuple(hint.shape) for hint in hints} == {(2, 3, 64, 64)}  # the area's, for both sides
    assert torch.equal(hints[0], hint_of(image).repeat(2, 1, 1, 1))


def test_levels_of_a_range_include_its_ends():
    schedule = NoiseSchedule()
    found = control.levels(schedule, 0.25, 0.5)
    assert found.cover(float(schedule.sigma(0.75 * 999)))
    assert found.cover(float(schedule.sigma(0.5 * 999)))
    assert not found.cover(float(schedule.sigma(0.76 * 999)))


def test_the_loader_notices_another_file(tmp_path, use_folders):
    use_folders(models=tmp_path)
    path = write_controlnet(tmp_path / "controlnet" / "a.safetensors")
    for name in ("ControlNetLoader", "DiffControlNetLoader"):
        node = STOCK[name]
        assert node.INPUT_TYPES()["required"]["control_net_name"] == (["a.safetensors"],)
        with pytest.raises(ValueError, match=r"none\.pth is not in .*controlnet"):
            node.VALIDATE_INPUTS("none.pth")
    before = STOCK["ControlNetLoader"].IS_CHANGED("a.safetensors")
    path.write_bytes(b"x")
    assert STOCK["ControlNetLoader"].IS_CHANGED("a.safetensors") != before


def test_replaced_spec_is_refused_where_levels_differ(load, models):
    a = models()
    spec = replace(load("v2-base").model.unet.spec, num_res_blocks=2)
    model = replace(load("v2-base").model, unet=random_unet(spec))
    with pytest.raises(ValueError, match="is a ControlNet for"):
        control.check_fit(a, model)
