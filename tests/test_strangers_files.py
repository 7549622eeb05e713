"""Checkpoints as merges, converters and forums leave them: read as what they are, or refused with the reason."""

import re
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch
from helpers import call, declared, empty, loaded, prompts, sample
from safetensors.torch import load_file, save_file
from sd2_family.headless.cli import main
from sd2_family.models import detection
from sd2_family.models.checkpoint import inspect, load_checkpoint
from sd2_family.models.specs import SPECS
from sd2_family.models.weights_file import read
from tiny import hugging_face_text, tiny_spec, tiny_state, write_checkpoint

UNET, VAE, TEXT, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema.diffusion_model"
LAYER = re.compile(r"cond_stage_model\.model\.transformer\.resblocks\.(\d+)\.")
PROJECTION = ("text_projection", "logit_scale")


@pytest.fixture
def save(tmp_path, use_folders):
    (tmp_path / "checkpoints").mkdir()
    use_folders(models=tmp_path)

    def write(state, name="x.safetensors", metadata=None):
        path = tmp_path / "checkpoints" / name
        save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, path, metadata=metadata)
        return path

    return write


def image(name):
    """An image of two steps from a file in the models folder."""
    file = loaded(name)
    latent = sample(file, *prompts(file), empty())
    return call("SD2VAEDecode", latent, file.vae)[0]


def same_networks(ours, theirs):
    pairs = ((ours.unet, theirs.unet), (ours.autoencoder, theirs.autoencoder))
    same = all(torch.equal(a, b) for x, y in pairs for a, b in zip(x.parameters(), y.parameters(), strict=True))
    tokens = torch.randint(0, 49408, (2, 77), generator=torch.Generator().manual_seed(0))
    return same and torch.equal(ours.text(tokens), theirs.text(tokens))


# ---- 2.x text towers: what nothing reads may be missing, and the names decide nothing


def last_layer(state):
    return max(int(match[1]) for match in map(LAYER.match, state) if match)


def without_projection(state):
    return {key: tensor for key, tensor in state.items() if not key.endswith(PROJECTION)}


def without_logit_scale(state):
    return {key: tensor for key, tensor in state.items() if not key.endswith("logit_scale")}


def cut(state):
    """As diffusers' script writes it: without the last layer, the projection and the noise schedule."""
    last = f"resblocks.{last_layer(state)}."
    state = {key: tensor for key, tensor in without_projection(state).items() if last not in key}
    return {key: tensor for key, tensor in state.items() if "." in key}


def part_of_the_last_layer(state):
    last = f"{TEXT}model.transformer.resblocks.{last_layer(state)}.mlp"
    return {key: tensor for key, tensor in state.items() if not key.startswith(last)}


def in_transformers_names(state):
    """The tower that is read, as early converters wrote it."""
    tower = {key.removeprefix(TEXT): tensor for key, tensor in cut(state).items() if key.startswith(TEXT)}
    others = {key: tensor for key, tensor in state.items() if not key.startswith(TEXT)}
    return others | {f"{TEXT}transformer.{key}": tensor for key, tensor in hugging_face_text(tower).items()}


def in_transformers_names_of_the_outer_model(state):
    renamed = in_transformers_names(state)
    return {key.replace("transformer.text_model.", "text_model."): tensor for key, tensor in renamed.items()}


def with_dead_weight(state):
    width = state[TEXT + "model.positional_embedding"].shape[1]
    return state | {
        TEXT + "model.attn_mask": torch.zeros(77, 77),
        TEXT + "model.visual.conv1.weight": torch.ones(8, 3, 2, 2),
        TEXT + "model.text_projection": torch.ones(width, 2 * width),  # of another embedding width
    }


@pytest.mark.parametrize(
    "write",
    [
        without_projection,
        without_logit_scale,
        cut,
        part_of_the_last_layer,
        in_transformers_names,
        in_transformers_names_of_the_outer_model,
        with_dead_weight,
    ],
)
@pytest.mark.parametrize("kind", ["v2-base", "v2-inpaint", "unclip-l"])
def test_a_text_tower_of_2x_as_converters_write_it(save, kind, write):
    official = tiny_state(kind)
    ours, theirs = (load_checkpoint(save(state, name)) for state, name in ((write(official), "a"), (official, "b")))
    assert ours.kind == theirs.kind == kind
    assert same_networks(ours, theirs)


def test_the_image_is_the_official_files(save):
    official = tiny_state("v2-base")
    save(official, "official.safetensors")
    expected = image("official.safetensors")
    for number, write in enumerate((without_projection, cut, in_transformers_names)):
        save(write(official), f"{number}.safetensors")
        assert torch.equal(image(f"{number}.safetensors"), expected)


@pytest.mark.parametrize(("layers", "whole"), [(24, True), (23, False)])
@pytest.mark.parametrize("bare", [True, False])
def test_at_the_official_depth_the_number_of_layers_decides(save, layers, whole, bare):
    one = {key: t for key, t in tiny_state("v2-base").items() if key.startswith(TEXT + "model.transformer")}
    block = [key for key in one if ".resblocks.0." in key]
    deep = {key.replace(".0.", f".{n}.", 1): one[key] for key in block for n in range(layers)}
    state = {key: tensor for key, tensor in tiny_state("v2-base").items() if key not in one} | deep
    state = cut_of_schedule(without_projection(state)) if bare else state
    text = load_checkpoint(save(state)).spec.text
    assert (text.layers, text.penultimate) == (layers, whole)


def cut_of_schedule(state):
    return {key: tensor for key, tensor in state.items() if "." in key}


@pytest.mark.parametrize(
    "key",
    [
        "model.ln_final.weight",
        "model.token_embedding.weight",
        "model.transformer.resblocks.1.attn.in_proj_bias",
    ],
)
def test_what_is_read_of_a_text_tower_stays_strict(save, key):
    state = tiny_state("v2-base")
    del state[TEXT + key]
    with pytest.raises(ValueError, match=re.escape(key)):
        load_checkpoint(save(state))


def test_a_tower_of_1x_in_open_clips_names(save):
    state, spec = tiny_state("v1"), tiny_spec("v1")
    tower = load_checkpoint(save(state)).text.state_dict()
    others = {key: tensor for key, tensor in state.items() if not key.startswith(TEXT)}
    renamed = others | {TEXT + key: tensor for key, tensor in tower.items()}
    found = load_checkpoint(save(renamed, "renamed.safetensors"))
    assert found.spec == spec
    assert same_networks(found, load_checkpoint(save(state)))


# ---- parts belong together


def test_parts_of_two_models_are_named(save):
    v1, v2 = tiny_state("v1"), tiny_state("v2-base")
    wide = {TEXT + "model.positional_embedding": torch.zeros(77, 128)}
    with pytest.raises(ValueError, match="a text encoder 128 wide and a UNet that takes text 64 wide, parts of two"):
        inspect(save(v2 | wide))
    latents = {VAE + "decoder.conv_in.weight": torch.zeros(64, 8, 3, 3)}
    with pytest.raises(ValueError, match="autoencoder with 8 latent channels and a UNet with 4, parts of two models"):
        inspect(save(v1 | latents))


def average(state, change=lambda key, tensor: tensor + 1):
    return {
        EMA + key.removeprefix(UNET).replace(".", ""): change(key, tensor)
        for key, tensor in state.items()
        if key.startswith(UNET)
    }


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda key, t: t[1:] if key.endswith("out.2.bias") else t, "is of another model and is not used: out.2.bias"),
        (lambda key, t: torch.ones(3), "is of another model and is not used: "),
    ],
)
def test_a_moving_average_of_another_model_is_left_alone_and_named(save, change, note):
    state = tiny_state("v2-base")
    found = load_checkpoint(save(state | average(state, change)))
    assert torch.equal(found.unet.out[2].bias, state[UNET + "out.2.bias"])
    assert f"note: the moving average (EMA) in the file {note}" in found.report


@pytest.mark.parametrize("kind", SPECS)
def test_a_moving_average_alone_is_a_unet(save, kind):
    state = tiny_state(kind)
    alone = {key: tensor for key, tensor in state.items() if not key.startswith(UNET)}
    metadata = {"modelspec.prediction_type": "v"} if kind == "v2-v" else None
    found = load_checkpoint(save(alone | average(state, lambda key, t: t), metadata=metadata))
    assert found.spec == tiny_spec(kind)
    assert found.inspection.ema
    assert all(torch.equal(t, state[UNET + key]) for key, t in found.unet.state_dict().items())


# ---- files that lack a part, or the prefix of one


@pytest.mark.parametrize("kind", ["v1", "v2-inpaint", "x4"])
@pytest.mark.parametrize(
    ("prefix", "missing"),
    [
        (VAE, "the file has no autoencoder (VAE); connect one from Load VAE"),
        (TEXT, "the file has no text encoder; connect one from Load CLIP"),
    ],
)
def test_a_file_that_lacks_one_part_loads_and_says_which(save, capsys, kind, prefix, missing):
    path = save({key: tensor for key, tensor in tiny_state(kind).items() if not key.startswith(prefix)})
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert f"note: {missing}" in said
    assert " alone" not in said
    part = {VAE: "autoencoder", TEXT: "text"}[prefix]
    official = {part: getattr(SPECS[kind], part)}  # the sizes of what is not there are the kind's
    assert load_checkpoint(path).spec == replace(tiny_spec(kind), **official)


def test_what_a_file_lacks_is_named_where_it_is_used(save):
    save({key: tensor for key, tensor in tiny_state("v2-base").items() if key.startswith(UNET)}, "unet.safetensors")
    save(tiny_state("v2-base"), "whole.safetensors")
    part, whole = loaded("unet.safetensors"), loaded("whole.safetensors")
    with pytest.raises(ValueError, match=r"unet.safetensors has no text encoder; connect one from Load CLIP"):
        prompts(part)
    with pytest.raises(ValueError, match=r"unet.safetensors has no autoencoder \(VAE\); connect one from Load VAE"):
        call("SD2VAEDecode", empty(), part.vae)
    latents = [sample(file, *prompts(whole), empty())["samples"] for file in (part, whole)]
    assert torch.equal(*latents)


def test_an_inpainting_unet_needs_no_vae_of_its_own(save):
    save({key: t for key, t in tiny_state("v2-inpaint").items() if key.startswith(UNET)}, "unet.safetensors")
    save(tiny_state("v2-inpaint"), "whole.safetensors")
    part, whole = loaded("unet.safetensors"), loaded("whole.safetensors")
    mask, pixels = torch.zeros(1, 64, 64), torch.rand(1, 64, 64, 3)
    mask[:, 16:40, 16:40] = 1
    encoded = call("SD2VAEEncodeForInpaint", *prompts(whole), whole.vae, pixels, mask, "grey", True)
    assert torch.equal(*(sample(file, *encoded)["samples"] for file in (part, whole)))
    assert sample(part, *prompts(whole), empty())["samples"].isfinite().all()  # without a mask: the official gray


def bare(state):
    return {key.removeprefix("model."): tensor for key, tensor in state.items()}


def bare_unet(state):
    return {key.removeprefix(UNET): tensor for key, tensor in state.items() if key.startswith(UNET)}


@pytest.mark.parametrize("write", [bare, bare_unet])
@pytest.mark.parametrize("kind", ["v1", "v2-base", "x4"])
def test_weights_without_their_prefix(save, kind, write):
    state = tiny_state(kind)
    found = load_checkpoint(save(write(state)))
    assert found.kind == kind
    assert all(torch.equal(t, state[UNET + key]) for key, t in found.unet.state_dict().items())
    assert (found.text is None) == (write is bare_unet)


def test_a_unet_in_diffusers_names(save):
    diffusers = pytest.importorskip("diffusers_keys")
    file = load_checkpoint(save(tiny_state("v2-base")))
    found = load_checkpoint(save(diffusers.diffusers_unet(file.unet).state_dict(), "unet.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(found.unet.parameters(), file.unet.parameters(), strict=True))


def test_a_file_without_a_unet_says_so(save):
    state = {key: tensor for key, tensor in tiny_state("v2-base").items() if not key.startswith(UNET)}
    with pytest.raises(ValueError, match=r"has an autoencoder \(VAE\) and a text encoder, but no UNet; choose"):
        inspect(save(state))


# ---- dead weight


@pytest.mark.parametrize(
    "extra",
    [
        ["first_stage_model.loss.logvar", "first_stage_model.loss.discriminator.main.0.weight"],
        ["first_stage_model.model_ema.decay", "first_stage_model.model_ema.encoderconv_inweight"],
        ["cond_stage_model.logit_scale", "cond_stage_model.transformer.vision_model.pre_layrnorm.weight"],
        ["depth_model.model.pretrained.model.head.extra", "embedder.model.logit_scale", "control_model.x"],
    ],
)
@pytest.mark.parametrize("kind", ["v1", "v2-depth", "unclip-h"])
def test_leftovers_of_merges_are_neither_required_nor_refused(save, kind, extra):
    state = tiny_state(kind)
    dirty = load_checkpoint(save(state | {key: torch.ones(2) for key in extra}, "dirty.safetensors"))
    assert dirty.spec == tiny_spec(kind)
    assert same_networks(dirty, load_checkpoint(save(state)))


def test_a_depth_estimator_without_what_nothing_reads(save):
    unread = ("pretrained.model.norm.", "pretrained.model.head.", "scratch.refinenet4.resConfUnit1.")
    state = tiny_state("v2-depth")
    extra = {f"depth_model.model.{name}weight": torch.ones(3) for name in unread}
    with_extra = load_checkpoint(save(state | extra, "extra.safetensors"))
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(with_extra.depth(x), load_checkpoint(save(state)).depth(x))


def test_noise_tables_that_nothing_reads_may_be_missing(save):
    state = {key: t for key, t in tiny_state("unclip-h").items() if key != "noise_augmentor.betas"}
    state["noise_augmentor.extra"] = torch.ones(2)
    assert load_checkpoint(save(state)).noise_augmentation is not None


# ---- heads of 64 where 80 does not divide


@pytest.mark.parametrize(("width", "head_width"), [(128, 64), (160, 80), (192, 64)])
def test_an_image_tower_of_another_width(tmp_path, width, head_width):
    spec = tiny_spec("unclip-h")
    spec = replace(spec, image=replace(spec.image, width=width, head_width=head_width))
    path = write_checkpoint(tmp_path / "x.safetensors", "unclip-h", spec=spec)
    assert load_checkpoint(path).spec.image == spec.image


# ---- the format follows from the content


@pytest.mark.parametrize("name", ["x.SAFETENSORS", "x.ckpt", "x.pt", "x.sft", "x"])
def test_safetensors_under_any_name(save, name):
    path = save(tiny_state("v2-base"), "plain.safetensors")
    renamed = path.rename(path.with_name(name))
    assert inspect(renamed).spec == tiny_spec("v2-base")


@pytest.mark.parametrize("name", ["x.safetensors", "x.CKPT", "x.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_under_any_name(tmp_path, name, zipped):
    torch.save({"state_dict": tiny_state("v1")}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert inspect(tmp_path / name).spec == tiny_spec("v1")


@pytest.mark.parametrize("name", ["x.SAFETENSORS", "x.sft", "x.PT"])
def test_the_loader_offers_files_whatever_the_case_of_their_suffix(save, name):
    save(tiny_state("v2-base"), name)
    assert name in declared("SD2CheckpointLoader")["ckpt_name"][0]
    assert loaded(name).report.startswith(f"{name}: v2-base")


def test_a_packed_archive_is_read_right(tmp_path):
    """A .ckpt that a zip program has compressed: its entries cannot be mapped into memory."""
    state = tiny_state("v1")
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "x.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    tensors = read(tmp_path / "packed.ckpt").tensors
    assert all(torch.equal(tensors[key], tensor) for key, tensor in state.items())


# ---- a folder in diffusers' format has one variant of each part


def variant(folder, name, *, keep=False, change=0.0):
    for path in folder.rglob("*.safetensors"):
        state = {key: tensor + change for key, tensor in load_file(path).items()}
        save_file(state, path.with_suffix(f".{name}.safetensors"))
        if not keep:
            path.unlink()


@pytest.fixture
def folder(tmp_path):
    diffusers = pytest.importorskip("diffusers_keys")
    file = load_checkpoint(write_checkpoint(tmp_path / "x.safetensors", "v1"))
    diffusers.official_pipeline(file).save_pretrained(tmp_path / "folder")
    return tmp_path / "folder", file


@pytest.mark.parametrize("name", ["fp16", "bf16", "non_ema", "fp16.non_ema", "mine"])
def test_a_folder_of_any_variant_names_its_choice(folder, name):
    path, file = folder
    variant(path, name)
    found = load_checkpoint(path)
    assert same_networks(found, file)
    assert found.report.count(f"is read from its variant {name}") == 3


def test_the_order_of_variants(folder):
    path, file = folder
    for name in ("non_ema", "fp16"):
        variant(path, name, keep=True, change=1.0)
        for extra in path.rglob("*.fp16.non_ema.*"):
            extra.unlink()
    assert same_networks(load_checkpoint(path), file)
    for plain in [p for p in path.rglob("*.safetensors") if p.name.count(".") == 1]:
        plain.unlink()
    assert "unet is read from its variant fp16" in load_checkpoint(path).report


def test_a_folder_without_a_part_loads_and_says_which(folder):
    path, _ = folder
    shutil.rmtree(path / "vae")
    assert "note: the file has no autoencoder (VAE)" in str(inspect(path))
    shutil.rmtree(path / "text_encoder")
    assert "note: the file has no text encoder" in str(inspect(path))


# ---- a prediction that no sampler of ours takes


@pytest.mark.parametrize("value", ["sample", "flow_prediction", "x0"])
def test_another_prediction_is_refused_unless_set_by_hand(save, value):
    path = save(tiny_state("v2-base"))
    (path.parent / "scheduler_config.json").write_text(f'{{"prediction_type": "{value}"}}')
    with pytest.raises(ValueError, match=f"x.safetensors predicts '{value}', says scheduler_config.json, and only"):
        inspect(path)
    assert detection.inspect(path, prediction="epsilon").reason == "set on the loader"
    (path.parent / "scheduler_config.json").unlink()
    with pytest.raises(ValueError, match=f"predicts '{value}', says the file's metadata"):
        inspect(save(tiny_state("v2-base"), metadata={"modelspec.prediction_type": value}))


# ---- `sd2 inspect` says what the loader will say


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {UNET + "input_blocks.1.1.extra.weight": torch.zeros(3)},
        lambda state: {key: tensor for key, tensor in state.items() if key != VAE + "decoder.conv_out.weight"},
        lambda state: state | {TEXT + "model.positional_embedding": torch.randn(248, 64)},
        lambda state: state | {UNET + "out.2.bias": torch.full((4,), float("nan"))},
        lambda state: state | {VAE + "loss.logvar": torch.zeros(1)},
        lambda state: state,
    ],
)
def test_inspect_and_the_loader_agree(save, capsys, change):
    path = save(change(tiny_state("v2-base")))
    try:
        report, refused = load_checkpoint(path).report, ""
    except ValueError as error:
        report, refused = "", str(error)
    assert main(["inspect", str(path)]) == (2 if refused else 0)
    said = capsys.readouterr()
    assert said.out.startswith(report)
    assert said.err == (f"sd2: {refused}\n" if refused else "")


# ---- tensors that no weights are


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("sparse", lambda tensor: tensor.to_sparse()),
        ("meta", lambda tensor: tensor.to("meta")),
        ("quantized", lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.quint8)),
    ],
)
def test_a_tensor_that_is_not_plain_is_named(tmp_path, kind, change):
    key = UNET + "out.2.bias"
    state = tiny_state("v1")
    torch.save(state | {key: change(state[key])}, tmp_path / "x.ckpt")
    with pytest.raises(
        ValueError, match=rf"^x.ckpt (has a {kind} tensor, {key}|cannot be read safely|would run|is inc)"
    ):
        inspect(tmp_path / "x.ckpt")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint16, torch.int8, torch.complex64, torch.bool])
def test_weights_of_another_type_are_named(tmp_path, dtype):
    state = {key: tensor.to(dtype) for key, tensor in tiny_state("v1").items()}
    torch.save(state, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=rf"^x.ckpt has weights of type {dtype} at "):
        inspect(tmp_path / "x.ckpt")
