"""Our objects beside ComfyUI's own with the same weights, in ComfyUI's process."""

import json
import subprocess
from pathlib import Path

import pytest
from live import PATH, PYTHON, missing
from safetensors.torch import save_file
from tiny import tiny_state, write_checkpoint

pytestmark = pytest.mark.comfyui

# float32 on latents of magnitude 1 to 10 after four guided steps; attention is computed by another kernel
CLOSE = 2e-3


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("inside")
    for kind in ("v1", "v2-base", "v2-inpaint", "unclip-h"):
        write_checkpoint(folder / f"{kind}.safetensors", kind)
    state = tiny_state("v2-base")
    last = max(key for key in state if ".resblocks." in key).split(".resblocks.")[1].split(".")[0]
    unread = (f"resblocks.{last}.", "text_projection", "logit_scale")
    cut = {key: t for key, t in state.items() if "." in key and not any(name in key for name in unread)}
    save_file(cut, folder / "cut.safetensors")
    unet = {key: t for key, t in state.items() if key.startswith("model.diffusion_model.")}
    save_file(unet, folder / "unet.safetensors")
    script = Path(__file__).parent / "inside.py"
    done = subprocess.run([PYTHON, script, PATH, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


CHANGES = (
    "lora, ldm",
    "lora, diffusers",
    "lora hook",
    "control",
    "area",
    "mask",
    "rescaled guidance",
    "v with zero terminal SNR",
    "FreeU",
    "perturbed attention",
)


def test_objects_are_comfyuis_own(numbers):
    assert numbers["native"] == [True] * 5  # MODEL, its inside, CLIP, VAE, every layer that holds weights


def test_thin_masks_of_pixels_reach_our_sampler(numbers):
    assert numbers["repainted"]["dot"] == [[3, 5]]
    touched = {(y // 8, x // 8) for y in range(8, 40) for x in (y + 5, y + 6)}
    assert numbers["repainted"]["stroke"] == sorted(map(list, touched))


def test_layers_can_be_streamed_with_their_patches(numbers):
    assert numbers["streamed"] <= 1e-5


@pytest.mark.parametrize(
    "what", ["stock sampler", "our sampler", "wrapper", "inpainting, stock sampler", "inpainting, our sampler"]
)
def test_same_result_as_comfyuis_own_model(numbers, what):
    assert numbers[what] <= CLOSE


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_does_to_our_model_what_it_does_to_comfyuis(numbers, change):
    assert numbers["effects"][change] > 0.02
    assert numbers["gaps"][change] <= CLOSE
    assert numbers["gaps"][f"{change}, our sampler"] <= CLOSE


@pytest.mark.parametrize(
    "what",
    [
        "stock node",
        "without a picture",
        "our node",
        "our node on a ComfyUI model",
        "our sampler",
    ],
)
def test_pictures_guide_as_in_comfyuis_own_model(numbers, what):
    assert numbers[f"unclip, {what}"] <= CLOSE


@pytest.mark.parametrize("part", ["image_embeds", "last_hidden_state", "penultimate_hidden_states"])
def test_pictures_are_encoded_as_by_comfyuis_own_encoder(numbers, part):
    assert numbers[f"encoder, {part}"] <= 1e-5


@pytest.mark.parametrize("what", ["pictures differ", "unclip effect", "mix effect"])
def test_pictures_have_an_effect(numbers, what):
    assert numbers[what] > 0.05


def test_changes_leave_nothing_behind(numbers):
    assert set(numbers["effects"]) == set(CHANGES)
    assert numbers["changes undone"] == 0


def test_a_lora_is_found_under_both_namings(numbers):
    assert numbers["effects"]["lora, ldm"] == numbers["effects"]["lora, diffusers"]


def test_wrappers_are_called(numbers):
    assert numbers["wrapper calls"] >= 4


@pytest.mark.parametrize("kind", ["v1", "v2-base"])
@pytest.mark.parametrize("prompt", ["weights", "length", "nothing"])
def test_our_text_encoding_is_comfyuis(numbers, kind, prompt):
    assert numbers["text"][f"{kind}, {prompt}"] <= 1e-4


def test_cancel_stops_with_the_step_and_the_next_run_works(numbers):
    assert numbers["steps after cancelling"] == 0
    assert numbers["after cancelling"] <= CLOSE


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_tiles_lie_where_the_whole_has_them(numbers, side):
    assert numbers["tiles, size"] == [1, 256, 320, 3]
    assert numbers["tiles, contrast"] > 0.01  # in every row and column
    assert numbers[f"tiles, {side}"] < 1e-4  # float32 on latents up to 10, summed by weights


@pytest.mark.parametrize("what", ["saved model", "saved clip", "saved vae", "saved unclip", "saved encoder"])
def test_what_comfyui_saves_loads_again(numbers, what):
    assert numbers[what] < 1e-5


def test_a_text_tower_without_the_layer_that_nothing_reads(numbers):
    assert numbers["cut text"] <= 1e-5


def test_what_a_file_lacks_is_named(numbers):
    text, vae = numbers["refusals"]
    assert text == "unet.safetensors has no text encoder; connect one from Load CLIP, or load a whole checkpoint"
    assert vae == "unet.safetensors has no autoencoder (VAE); connect one from Load VAE, or load a whole checkpoint"
