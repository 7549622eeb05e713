"""The loader on narrow checkpoints of every kind, on damaged and foreign files, and on the official layouts."""

import os
import re
import sys
import types
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_layouts import layout
from safetensors.torch import load_file, save_file
from sd2_family.models import checkpoint, detection
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.detection import inspect
from sd2_family.models.specs import SPECS
from sd2_family.models.weights_file import REST, WeightsFile, read
from tiny import SCHEDULE_BUFFERS, tiny_spec, tiny_state, write_checkpoint

UNET, SPREAD = "model.diffusion_model.", "output_blocks.11.1.transformer_blocks.0.norm1.bias"


@pytest.fixture
def write(tmp_path):
    def save(state, name="x.safetensors", metadata=None):
        path = tmp_path / name
        state = {key: tensor.contiguous() for key, tensor in state.items()}
        save_file(state, path, metadata=metadata) if path.suffix == ".safetensors" else torch.save(state, path)
        return path

    return save


@pytest.fixture(scope="module")
def v2():
    return tiny_state("v2-base")


# ---- recognition


@pytest.mark.parametrize("kind", SPECS)
def test_every_kind_is_recognised_with_its_own_sizes(tmp_path, kind):
    path = write_checkpoint(tmp_path / "x.safetensors", kind, seed=5)
    loaded = load_checkpoint(path)
    assert loaded.spec == tiny_spec(kind)
    assert loaded.kind == kind
    state, unet = load_file(path), loaded.unet.state_dict()
    assert all(torch.equal(tensor, state[UNET + key]) for key, tensor in unet.items())
    vae = loaded.autoencoder.state_dict()
    assert all(torch.equal(tensor, state["first_stage_model." + key]) for key, tensor in vae.items())
    if kind == "v2-depth":
        depth = loaded.depth.state_dict()
        assert all(torch.equal(tensor, state["depth_model.model." + key]) for key, tensor in depth.items())
    for module in filter(None, (loaded.unet, loaded.autoencoder, loaded.text, loaded.depth, loaded.image)):
        assert not module.training
        assert not any(tensor.is_meta or tensor.requires_grad for tensor in module.state_dict(keep_vars=True).values())


EVIDENCE = {
    "v1": "a 1.x UNet with 4 input channels",
    "v1-inpaint": "a 1.x UNet with 9 input channels",
    "v2-base": "a 2.x UNet with 4 input channels",
    "v2-v": "a 2.x UNet with 4 input channels",
    "v2-inpaint": "a 2.x UNet with 9 input channels",
    "v2-depth": "a 2.x UNet with 5 input channels",
    "unclip-h": "a 2.x UNet with 4 input channels, class vectors of 2048",
    "unclip-l": "a 2.x UNet with 4 input channels, class vectors of 1536",
    "x4": "a 2.x UNet with 7 input channels, 1000 classes",
}
PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "depth_model.model.", "embedder.model.")
PARTS += ("noise_augmentor.", "low_scale_model.")
# one tensor of each part, in a shape that is the official one but for a row
NEAR_MISSES = {
    "v1": "cond_stage_model.transformer.text_model.encoder.layers.7.mlp.fc1.weight",
    "v1-inpaint": "first_stage_model.encoder.mid.attn_1.q.weight",
    "v2-base": "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
    "v2-v": "cond_stage_model.model.transformer.resblocks.11.attn.in_proj_weight",
    "v2-inpaint": "model.diffusion_model.output_blocks.5.2.conv.weight",
    "v2-depth": "depth_model.model.scratch.refinenet2.out_conv.weight",
    "unclip-h": "model.diffusion_model.time_embed.2.weight",
    "unclip-l": "first_stage_model.decoder.up.1.block.2.conv1.weight",
    "x4": "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight",
}


@pytest.fixture
def official(monkeypatch):
    """The official file of a kind at full size, with tensors that take no memory: one zero repeated."""

    def read(kind, **changed):
        zero = torch.zeros((), dtype=torch.float16)
        tensors = {key: zero.expand(shape) for key, shape in (layout(kind) | changed).items()}
        metadata = {"modelspec.prediction_type": SPECS[kind].prediction}  # zeros have no spread to guess it from
        monkeypatch.setattr(detection, "read", lambda path: WeightsFile("x", tensors, metadata))

    monkeypatch.setattr(checkpoint, "_finite", lambda tensor: True)  # which would look at each of those zeros
    return read


@pytest.mark.parametrize("kind", SPECS)
def test_every_official_layout_loads_strictly(official, kind):
    official(kind)
    loaded = load_checkpoint("x")
    assert loaded.spec == SPECS[kind]
    assert str(loaded.inspection).startswith(f"x: {kind}, {SPECS[kind].task} ({EVIDENCE[kind]})\nprediction: ")
    modules = [part for part in vars(loaded).values() if isinstance(part, torch.nn.Module)]
    assert not any(tensor.is_meta for module in modules for tensor in module.state_dict(keep_vars=True).values())
    assert not any(buffer.is_meta for module in modules for buffer in module.buffers())
    # what no part takes is the noise schedule, which two numbers of the spec give
    assert {key for key in layout(kind) if not key.startswith(PARTS)} == set(SCHEDULE_BUFFERS)


@pytest.mark.parametrize("kind", SPECS)
def test_a_near_miss_is_refused_by_name(official, kind):
    key = NEAR_MISSES[kind]
    first, *rest = layout(kind)[key]
    official(kind, **{key: (first + 1, *rest)})
    name = (
        key.split(".", 2)[-1].removeprefix("text_model.").replace("encoder.layers.7.mlp.fc1", "resblocks.7.mlp.c_fc")
    )
    with pytest.raises(
        ValueError, match=rf"^x does not fit the model at .* 1 misshapen key \(.*{re.escape(name)} \[{first + 1}"
    ):
        load_checkpoint("x")


def test_the_text_tower_computes(tmp_path):
    loaded = load_checkpoint(write_checkpoint(tmp_path / "x.safetensors", "v1", dtype=torch.float16))
    assert loaded.text.dtype == torch.float16
    assert loaded.text.float()(torch.zeros(1, 77, dtype=torch.long)).isfinite().all()


def test_the_report_says_kind_prediction_reason_and_parts(tmp_path):
    path = write_checkpoint(tmp_path / "x.safetensors", "v2-inpaint", dtype=torch.float16)
    lines = load_checkpoint(path).report.splitlines()
    assert lines[0] == "x.safetensors: v2-inpaint, inpainting (a 2.x UNet with 9 input channels)"
    assert lines[1] == "prediction: epsilon (the default of v2-inpaint)"
    assert lines[2].startswith("parts: unet ")
    assert lines[2].count("float16") == 3
    assert str(inspect(path)).splitlines() == lines


def test_extra_parts_are_kept_by_name(write):
    state = tiny_state("v2-base") | {"low_scale_model.betas": torch.ones(7), "embedder.model.x": torch.ones(2, 3)}
    loaded = load_checkpoint(write(state))
    assert {part: list(tensors) for part, tensors in loaded.extras.items()} == {
        "embedder": ["model.x"],
        "low_scale_model": ["betas"],
    }
    assert loaded.inspection.sizes["embedder"] == 6


def test_the_depth_estimator_is_named_and_keeps_its_dtype(tmp_path):
    path = write_checkpoint(tmp_path / "x.safetensors", "v2-depth", dtype=torch.float16)
    loaded = load_checkpoint(path, dtype=torch.bfloat16)
    assert loaded.report.splitlines()[2].endswith("depth_model 0.7 M float16")
    assert {parameter.dtype for parameter in loaded.depth.parameters()} == {torch.float16}


def test_a_depth_checkpoint_may_lack_its_estimator(write):
    state = {key: tensor for key, tensor in tiny_state("v2-depth").items() if not key.startswith("depth_model.")}
    loaded = load_checkpoint(write(state))
    assert loaded.kind == "v2-depth"
    assert loaded.depth is None


@pytest.mark.parametrize(
    "key", ["pretrained.model.blocks.1.mlp.fc2.weight", "scratch.refinenet4.resConfUnit2.conv1.bias"]
)
def test_a_near_miss_in_the_depth_estimator_is_refused_by_name(write, key):
    state = tiny_state("v2-depth")
    key = "depth_model.model." + key
    state[key] = state[key][1:]
    with pytest.raises(ValueError, match=rf"at depth_model.model.: 1 misshapen key \({key[18:]}.*choose another"):
        load_checkpoint(write(state))
    del state[key]
    with pytest.raises(ValueError, match=rf"1 missing key \({key[18:]}"):
        load_checkpoint(write(state))


def test_dtype_converts_every_part(tmp_path):
    path = write_checkpoint(tmp_path / "x.safetensors", "v2-base", dtype=torch.float16)
    loaded = load_checkpoint(path, dtype=torch.bfloat16)
    modules = (loaded.unet, loaded.autoencoder, loaded.text)
    assert {parameter.dtype for module in modules for parameter in module.parameters()} == {torch.bfloat16}


def test_a_part_of_mixed_dtypes_becomes_its_most_common_one(write, v2):
    state = {key: tensor.half() for key, tensor in v2.items()} | {UNET + "out.2.bias": v2[UNET + "out.2.bias"]}
    assert {parameter.dtype for parameter in load_checkpoint(write(state)).unet.parameters()} == {torch.float16}


def test_eight_bit_weights_become_float16(write, v2):
    loaded = load_checkpoint(write({key: tensor.to(torch.float8_e4m3fn) for key, tensor in v2.items()}))
    assert loaded.unet.dtype == torch.float16


# ---- moving averages


def with_average(state):
    average = {
        "model_ema.diffusion_model" + key.removeprefix(UNET).replace(".", ""): tensor + 1
        for key, tensor in state.items()
        if key.startswith(UNET)
    }
    return state | average | {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(5)}


def test_the_moving_average_is_used_where_the_file_has_one(write, v2):
    loaded = load_checkpoint(write(with_average(v2)))
    assert torch.equal(loaded.unet.out[2].bias, v2[UNET + "out.2.bias"] + 1)
    assert "EMA" in loaded.report


def test_an_incomplete_moving_average_is_not_used(write, v2):
    state = with_average(v2)
    del state["model_ema.diffusion_modelout2bias"]
    loaded = load_checkpoint(write(state))
    assert torch.equal(loaded.unet.out[2].bias, v2[UNET + "out.2.bias"])
    assert "note: the moving average (EMA) in the file lacks 1 of" in loaded.report


# ---- epsilon or v


@pytest.mark.parametrize(
    ("value", "expected"), [("v", "v_prediction"), ("V_Prediction", "v_prediction"), ("epsilon", "epsilon")]
)
def test_prediction_from_metadata(write, v2, value, expected):
    path = write(v2 | {"v_pred": torch.ones(0)}, metadata={"modelspec.prediction_type": value})
    found = inspect(path)
    assert found.spec.prediction == expected
    assert "modelspec.prediction_type" in found.reason


def test_prediction_from_a_key(write, v2):
    found = inspect(write(v2 | {"v_pred": torch.ones(0)}))
    assert (found.spec.kind, found.spec.prediction, found.reason) == ("v2-v", "v_prediction", "the file's key v_pred")


def test_zero_terminal_snr_from_a_key(write, v2):
    assert not inspect(write(v2)).zero_terminal_snr
    found = inspect(write(v2 | {"v_pred": torch.ones(0), "ztsnr": torch.ones(0)}))
    assert found.zero_terminal_snr
    assert "zero terminal SNR" in str(found)


@pytest.mark.parametrize("folder", [".", "scheduler"])
def test_prediction_from_a_scheduler_config(write, v2, folder):
    path = write(v2)
    (path.parent / folder).mkdir(exist_ok=True)
    (path.parent / folder / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    found = inspect(path)
    assert found.spec.kind == "v2-v"
    assert found.reason.endswith("scheduler_config.json next to the weights")


def test_a_scheduler_config_that_says_nothing_is_passed_over(write, v2):
    path = write(v2)
    (path.parent / "scheduler_config.json").write_text("[1, 2")
    assert inspect(path).reason == "the default of v2-base"


@pytest.mark.parametrize(("spread", "expected"), [(0.08, "v2-base"), (0.1, "v2-v")])
def test_prediction_from_the_spread_of_a_bias(write, v2, spread, expected):
    bias = torch.tensor([-spread, spread]).repeat(32)
    found = inspect(write(v2 | {UNET + SPREAD: bias}))
    assert found.spec.kind == expected
    assert "guessed" in found.reason


def test_the_first_rule_that_applies_decides(write, v2):
    """Metadata, then the key, then the scheduler's config, then the spread, then the kind's default."""
    wide, key = {UNET + SPREAD: torch.tensor([-1.0, 1.0]).repeat(32)}, {"v_pred": torch.ones(0)}
    path = write(v2 | wide)
    assert inspect(path).reason.startswith("guessed from the weights")
    config = path.parent / "scheduler_config.json"
    config.write_text('{"prediction_type": "epsilon"}')
    assert inspect(path).reason == "scheduler_config.json next to the weights"
    assert inspect(write(v2 | wide | key)).reason == "the file's key v_pred"
    path = write(v2 | wide | key, metadata={"modelspec.prediction_type": "eps"})
    assert inspect(path).reason == "the file's metadata, modelspec.prediction_type"
    assert inspect(path, prediction="v_prediction").reason == "set on the loader"
    config.unlink()
    assert inspect(write(v2)).reason == "the default of v2-base"


def test_the_spread_is_not_asked_of_other_kinds(write):
    bias = torch.tensor([-1.0, 1.0]).repeat(32)
    assert inspect(write(tiny_state("v2-inpaint") | {UNET + SPREAD: bias})).spec.prediction == "epsilon"


def test_prediction_by_hand_wins(tmp_path):
    path = write_checkpoint(tmp_path / "x.safetensors", "v2-v")
    loaded = load_checkpoint(path, prediction="epsilon")
    assert (loaded.kind, loaded.prediction, loaded.reason) == ("v2-base", "epsilon", "set on the loader")
    path = write_checkpoint(tmp_path / "y.safetensors", "v2-inpaint", prediction="epsilon")
    loaded = load_checkpoint(path, prediction="v_prediction")
    assert loaded.spec == replace(tiny_spec("v2-inpaint"), prediction="v_prediction")


# ---- strictness


@pytest.mark.parametrize("key", ["out.2.bias", "middle_block.1.norm.weight"])
def test_a_missing_key_is_named(write, v2, key):
    state = {name: tensor for name, tensor in v2.items() if name != UNET + key}
    with pytest.raises(ValueError, match=rf"x.safetensors .* 1 missing key \({key}\)"):
        load_checkpoint(write(state))


def test_a_missing_key_that_recognition_needs_is_named(write, v2):
    state = {name: tensor for name, tensor in v2.items() if name != UNET + "out.2.weight"}
    with pytest.raises(ValueError, match=r"x.safetensors has no out\.2\.weight"):
        load_checkpoint(write(state))


def test_unexpected_keys_are_named_and_counted(write, v2):
    extra = {f"first_stage_model.encoder.x.{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(
        ValueError, match=r"9 unexpected keys \(encoder.x.0, encoder.x.1, encoder.x.2, ...\)"
    ):
        load_checkpoint(write(v2 | extra))


def test_another_shape_is_named(write, v2):
    with pytest.raises(ValueError, match=r"1 misshapen key \(out.2.bias \[5\] instead of \[4\]\)"):
        load_checkpoint(write(v2 | {UNET + "out.2.bias": torch.ones(5)}))


def test_a_missing_projection_of_a_1x_text_layer_is_an_error(write):
    state = tiny_state("v1")
    del state["cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"1 missing key \(model.transformer.resblocks.1.attn.in_proj_weight\)"):
        load_checkpoint(write(state))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_no_numbers_are_named(write, v2, value, dtype):
    state = {key: tensor.to(dtype, copy=True) for key, tensor in v2.items()}
    state[UNET + "middle_block.0.in_layers.2.weight"][70, 3, 1, 1] = value
    with pytest.raises(
        ValueError, match=r"NaN or infinite values in model\.diffusion_model\.middle_block\.0\.in_layers\.2"
    ):
        load_checkpoint(write(state))


def test_an_overflow_by_conversion_is_named(write, v2):
    state = v2 | {"first_stage_model.quant_conv.bias": torch.full((8,), 1e6)}
    with pytest.raises(ValueError, match=r"first_stage_model.quant_conv.bias as torch.float16"):
        load_checkpoint(write(state), dtype=torch.float16)


# ---- files that are something else


FOREIGN = {
    "is a LoRA; load it with": "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
    "is a LoRA; load": "unet.down_blocks.0.attentions.0.to_q.lora_A.weight",
    "is a ControlNet": "control_model.input_blocks.0.0.weight",
    "is a ControlNet;": "controlnet_cond_embedding.conv_in.weight",
    "is an SDXL checkpoint; choose": "model.diffusion_model.input_blocks.7.1.transformer_blocks.1.norm1.bias",
    "is an SDXL checkpoint": "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
    "is a Stable Diffusion 3 model": "model.diffusion_model.joint_blocks.0.context_block.attn.proj.weight",
    "is a Flux model": "double_blocks.0.img_attn.proj.weight",
    "has no middle_block.1.proj_in.weight": "model.diffusion_model.input_blocks.0.0.weight",
    "is only an autoencoder": "first_stage_model.encoder.down.0.block.0.conv1.weight",
    "is only an autoencoder \\(VAE\\)": "encoder.down_blocks.0.resnets.0.conv1.weight",
    "is only a text encoder": "text_model.encoder.layers.0.mlp.fc1.weight",
    "is only a text encoder;": "cond_stage_model.model.transformer.resblocks.0.ln_1.weight",
    "is a textual-inversion embedding": "emb_params",
    "is not a Stable Diffusion checkpoint": "conv_first.weight",
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_a_foreign_file_is_called_what_it_is(write, sentence):
    with pytest.raises(ValueError, match="^x.safetensors " + sentence):
        inspect(write({FOREIGN[sentence]: torch.ones(2, 2)}))


def test_a_controlnet_with_blocks_of_a_unet_is_still_a_controlnet(write):
    keys = ("time_embed.0.weight", "input_blocks.0.0.weight", "zero_convs.0.0.weight")
    with pytest.raises(ValueError, match="is a ControlNet"):
        inspect(write({key: torch.ones(2, 2) for key in keys}))


def test_an_unknown_number_of_input_channels_is_named(write, v2):
    stem = UNET + "input_blocks.0.0.weight"
    with pytest.raises(
        ValueError, match=r"has 8 input channels.* linear projections; choose a checkpoint of kind v1, "
    ):
        inspect(write(v2 | {stem: torch.ones(64, 8, 3, 3)}))


def test_a_key_of_another_rank_is_an_error_of_one_sentence(write, v2):
    with pytest.raises(ValueError, match="whose rank fits no known model"):
        inspect(write(v2 | {UNET + "input_blocks.0.0.weight": torch.ones(64)}))


# ---- damaged files


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_damaged_files_are_errors_of_one_sentence(write, v2, name):
    path = write({key: v2[key] for key in list(v2)[:20]}, name)
    whole = path.read_bytes()
    for content, sentence in (
        (whole[:-100], "is incomplete"),
        (whole[:50], "is incomplete"),
        (b"<!DOCTYPE html><html>404</html>", "is incomplete or not a|cannot be read safely"),
        (b"", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{name} .*({sentence})"):
            load_checkpoint(path)


def test_parts_may_lie_in_another_file(write, v2):
    own = {key: tensor for key, tensor in v2.items() if key.startswith(UNET)}
    write({key: torch.zeros_like(tensor) if key in own else tensor for key, tensor in v2.items()}, "rest.safetensors")
    path = write(own, metadata={REST: "rest.safetensors"})
    found = read(path).tensors
    assert found.keys() == v2.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in v2.items())
    assert "other parts from rest.safetensors" in load_checkpoint(path).report


@pytest.mark.parametrize("name", ["rest.safetensors", "../x.safetensors/rest.safetensors"])
def test_parts_in_a_file_that_is_not_there(write, v2, name):
    own = {key: tensor for key, tensor in v2.items() if key.startswith(UNET)}
    with pytest.raises(
        ValueError, match=f"^x.safetensors needs {name} for some of its parts; put it in the same folder"
    ):
        read(write(own, metadata={REST: name}))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.safetensors does not exist"):
        load_checkpoint(tmp_path / "nothing.safetensors")


# ---- pickles


def test_the_original_pickles_load(tmp_path, monkeypatch, v2):
    lightning = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    lightning.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": lightning.__name__})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, lightning.__name__, lightning)
    score = {"best_model_score": np.float32(0.25), "epoch": np.int64(3)}
    content = {"epoch": 3, "global_step": 7, "state_dict": v2, "callbacks": {lightning.ModelCheckpoint: score}}
    torch.save(content, tmp_path / "x.ckpt")
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(tmp_path / "x.ckpt").unet.out[2].bias, v2[UNET + "out.2.bias"])


def test_scalars_of_older_numpy_load(tmp_path):
    torch.save({"loss": np.float64(0.5), "state_dict": {"w": torch.arange(3)}}, tmp_path / "new.ckpt")
    with zipfile.ZipFile(tmp_path / "new.ckpt") as new, zipfile.ZipFile(tmp_path / "old.ckpt", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert torch.equal(read(tmp_path / "old.ckpt").tensors["w"], torch.arange(3))


def test_a_bare_dict_and_the_format_before_zip_load(tmp_path):
    torch.save({"w": torch.arange(3), "step": 4}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    assert list(read(tmp_path / "x.ckpt").tensors) == ["w"]


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"echo > {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_something_is_refused_by_name_and_does_not_run(tmp_path, zipped):
    marker = tmp_path / "ran"
    content = {"state_dict": {"w": torch.ones(2)}, "callbacks": Malicious(marker)}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"^x.ckpt would run (posix|nt)\.system .* use a .safetensors file"):
        read(tmp_path / "x.ckpt")
    assert not marker.exists()


def test_a_pickle_of_something_else_is_an_error(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x.ckpt contains a list"):
        read(tmp_path / "x.ckpt")


def test_weights_stay_on_disk_until_written_to(tmp_path):
    """Memory-mapped: writing to a loaded tensor must not reach the file."""
    for name, save in (("x.safetensors", save_file), ("x.ckpt", torch.save)):
        save({"w": torch.zeros(8)}, tmp_path / name)
        read(tmp_path / name).tensors["w"].fill_(1)
        assert not read(tmp_path / name).tensors["w"].any()
    assert not load_file(tmp_path / "x.safetensors")["w"].any()


# ---- the autoencoder's groups


def test_the_groups_of_the_norms_are_32_unless_the_metadata_has_their_size(tmp_path):
    for size, groups in ((None, {32}), (4, {8, 16})):
        metadata = {} if size is None else {"sd2_family.group_size": str(size)}
        path = write_checkpoint(tmp_path / f"{size}.safetensors", "v2-base", metadata=metadata)
        modules = load_checkpoint(path).autoencoder.modules()
        assert {module.num_groups for module in modules if isinstance(module, torch.nn.GroupNorm)} == groups


@pytest.mark.parametrize("size", ["0", "-1", "four", "4.0", ""])
def test_a_group_size_that_is_no_number_is_named(tmp_path, size):
    path = write_checkpoint(tmp_path / "x.safetensors", "v2-base", metadata={"sd2_family.group_size": size})
    with pytest.raises(ValueError, match=rf"^x.safetensors has sd2_family.group_size '{size}' in its metadata"):
        inspect(path)


def test_a_width_that_32_groups_do_not_divide_is_named(write):
    spec = tiny_spec("v2-base")
    spec = replace(spec, autoencoder=replace(spec.autoencoder, channels=48, group_size=4))
    with pytest.raises(ValueError, match=r"^x.safetensors has an autoencoder with 48 channels"):
        inspect(write(tiny_state("v2-base", spec=spec)))
