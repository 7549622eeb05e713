"""Folders that diffusers' own pipelines save, against single files with the same weights."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from checkpoint_layouts import layout
from diffusers_keys import (
    PIPELINES,
    diffusers_unet,
    diffusers_vae,
    official_pipeline,
    transformers_depth,
    transformers_image,
    transformers_text,
)
from safetensors.torch import load_file, save_file
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.backends import backend
from sd2_family.headless.cli import main
from sd2_family.models.autoencoder import AutoencoderKL
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.clip_image import ImageTower
from sd2_family.models.clip_text import CLIPText, OpenCLIPText
from sd2_family.models.detection import inspect
from sd2_family.models.diffusers_folder import original_keys
from sd2_family.models.midas import DPTHybrid
from sd2_family.models.parts import image_weights, split
from sd2_family.models.specs import SPECS
from sd2_family.models.unet import UNet
from sd2_family.models.weights_file import WeightsFile
from tiny import tiny_spec


@pytest.fixture(scope="module")
def saved(tiny_models, tmp_path_factory):
    """A folder and a file of the same weights, by kind."""
    made = {}

    def save(kind):
        if kind not in made:
            root = tmp_path_factory.mktemp(kind)
            file = shutil.copy(tiny_models.file(kind), root / "tiny.safetensors")
            official_pipeline(load_checkpoint(file)).save_pretrained(root / "tiny")
            made[kind] = root / "tiny", file
        return made[kind]

    return save


def without_the_last_layer(spec):
    """The spec of the same model in a folder, where diffusers leaves out the text layer that 2.x does not read."""
    text = spec.text
    return replace(spec, text=replace(text, layers=text.layers - text.penultimate, penultimate=False))


@pytest.mark.parametrize("kind", PIPELINES)
def test_same_outputs_as_the_single_file(saved, kind):
    folder, file = (load_checkpoint(path) for path in saved(kind))
    assert folder.spec == without_the_last_layer(file.spec)
    spec = folder.spec

    torch.manual_seed(0)
    x, context = torch.randn(2, spec.unet.in_channels, 8, 8), torch.randn(2, 77, spec.unet.context_dim)
    times, y = torch.tensor([3, 700]), torch.tensor([20, 300]) if spec.unet.num_classes else None
    y = torch.randn(2, spec.unet.vector_dim) if spec.unet.vector_dim else y
    picture, tokens = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randint(0, 49408, (2, 77))
    for output in (
        lambda model: model.unet(x, times, context, y),
        lambda model: torch.cat(model.autoencoder.moments(picture)),
        lambda model: model.autoencoder.decode(x[:, :4]),
        lambda model: model.text(tokens),
        *([lambda model: model.depth(picture)] if spec.depth else []),
        *([lambda model: model.image(picture[..., :32, :32])] if spec.image else []),
    ):
        assert torch.equal(output(folder), output(file))


def test_the_statistics_of_image_embeddings(saved):
    folder = load_checkpoint(saved("unclip-l")[0])
    dim = folder.spec.image.embed_dim
    assert torch.equal(folder.noise_augmentation.data_mean, torch.linspace(-1, 1, dim))
    assert torch.equal(folder.noise_augmentation.data_std, torch.linspace(1, 2, dim))
    assert not folder.inspection.missing


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_official_models_convert_to_the_official_layouts(kind):
    """Modules of diffusers and transformers at full width, on meta: every name and shape."""
    spec = SPECS[kind]
    with torch.device("meta"):
        tower = (OpenCLIPText if spec.text.tower == "openclip-h" else CLIPText)(spec.text)
        parts = {
            "unet": diffusers_unet(UNet(spec.unet)),
            "vae": diffusers_vae(AutoencoderKL(spec.autoencoder), spec.autoencoder),
            "text_encoder": transformers_text(tower),
        }
        if spec.depth is not None:
            parts["depth_estimator"] = transformers_depth(DPTHybrid(spec.depth))
        if spec.image is not None:
            parts["image_encoder"] = transformers_image(ImageTower(spec.image))
        converted = {}
        for part, module in parts.items():
            converted |= original_keys(part, module.state_dict(), {})
        official = {key: torch.empty(shape) for key, shape in layout(kind).items()}
    (ours, cut), (theirs, whole) = shapes(converted), shapes(official)
    unread = ("text model.text_projection", "text model.logit_scale", "text model.transformer.resblocks.23.")
    assert ours == {key: shape for key, shape in theirs.items() if not key.startswith(unread)}
    assert not spec.text.penultimate or (cut, whole) == (True, False)  # 1.x reads every layer


def shapes(tensors):
    """The shapes of what is read of each part, and whether the text tower lacks its last layer."""
    parts = split(WeightsFile("x", tensors, {}))
    states = {"unet": parts.unet, "vae": parts.autoencoder, "text": parts.text, "depth": parts.depth}
    states["image"] = image_weights(parts.extras.get("embedder", {}))
    found = {f"{part} {key}": tuple(t.shape) for part, state in states.items() for key, t in state.items()}
    return found, parts.text_is_cut


# ---- what the folder says


def copy_of(folder, tmp_path):
    """Links to the files of a folder, so that one can be changed."""
    for path in folder.rglob("*"):
        if path.is_file():
            link = tmp_path / "copy" / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return tmp_path / "copy"


def change(path, **values):
    content = json.loads(path.read_text()) | values
    path.unlink()
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("prediction", "kind"), [("epsilon", "v2-base"), ("v_prediction", "v2-v")])
def test_prediction_from_the_scheduler(saved, tmp_path, prediction, kind):
    folder = copy_of(saved("v2-base")[0], tmp_path)
    change(folder / "scheduler" / "scheduler_config.json", prediction_type=prediction)
    found = inspect(folder)
    assert (found.spec.kind, found.spec.prediction) == (kind, prediction)
    assert found.reason == "scheduler/scheduler_config.json next to the weights"
    assert str(found).startswith(f"copy: {kind}, text-to-image")
    assert inspect(folder, prediction="epsilon").reason == "set on the loader"


def test_zero_terminal_snr_from_the_scheduler(saved, tmp_path):
    folder = copy_of(saved("v2-v")[0], tmp_path)
    assert not inspect(folder).zero_terminal_snr
    change(folder / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True)
    assert inspect(folder).zero_terminal_snr


# ---- the ways weights are stored


def parts_of(folder):
    return list(folder.rglob("*.safetensors"))


def half(folder):
    for path in parts_of(folder):
        state = {key: tensor.half() for key, tensor in load_file(path).items()}
        path.unlink()
        save_file(state, path.with_suffix(".fp16.safetensors"))


def pickled(folder):
    for path in parts_of(folder):
        name = "pytorch_model.bin" if path.stem == "model" else "diffusion_pytorch_model.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()


def sharded(folder, variant=""):
    for path in parts_of(folder):
        state = load_file(path)
        path.unlink()
        shards = {f"{path.stem}{variant}-{n + 1:05}-of-00003.safetensors": list(state)[n::3] for n in range(3)}
        for name, keys in shards.items():
            save_file({key: state[key] for key in keys}, path.with_name(name))
        where = {key: name for name, keys in shards.items() for key in keys}
        path.with_name(f"{path.stem}.safetensors.index{variant}.json").write_text(json.dumps({"weight_map": where}))


def half_in_shards(folder):
    sharded(folder, ".fp16")


def both_precisions(folder):
    for path in parts_of(folder):
        state = {key: tensor.half() + 1 for key, tensor in load_file(path).items()}
        save_file(state, path.with_suffix(".fp16.safetensors"))


def older_names(folder):
    """The autoencoder's attention as diffusers named it before 0.13, text weights as transformers did before 5."""
    (path,) = (folder / "vae").glob("*.safetensors")
    state = load_file(path)
    path.unlink()
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        state = {key.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for key, t in state.items()}
    save_file(state, path)
    (path,) = (folder / "text_encoder").glob("*.safetensors")
    state = {"text_model." + key.removeprefix("text_model."): tensor for key, tensor in load_file(path).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    path.unlink()
    save_file(state, path)


@pytest.mark.parametrize("store", [half, pickled, sharded, half_in_shards, both_precisions, older_names])
@pytest.mark.parametrize("kind", ["v1", "v2-base"])
def test_every_way_of_storing_weights_is_read(saved, tmp_path, store, kind):
    folder = copy_of(saved(kind)[0], tmp_path)
    store(folder)
    loaded, file = load_checkpoint(folder), load_checkpoint(saved(kind)[1])
    for ours, theirs in ((loaded.unet, file.unet), (loaded.autoencoder, file.autoencoder)):
        assert all(torch.equal(a, b.to(a)) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert ours.dtype == (torch.float16 if store is half else torch.float32)
    tokens = torch.arange(77)[None]
    assert torch.allclose(loaded.text.float()(tokens), file.text(tokens), atol=0.02 if store is half else 0, rtol=0)


# ---- folders that are something else


def remove(path):
    for file in [*path.rglob("*"), path]:
        file.unlink(missing_ok=True) if not file.is_dir() else None
    path.rmdir() if path.is_dir() else None


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: remove(folder / "model_index.json"), "copy has no model_index.json; choose a folder"),
        (lambda folder: remove(folder / "unet"), "copy is a StableDiffusionPipeline; choose"),
        (lambda folder: (folder / "text_encoder_2").mkdir(), "choose a Stable Diffusion 1.x or 2.x model"),
        (lambda folder: [remove(path) for path in parts_of(folder)], "copy has no weights in unet; download"),
    ],
)
def test_other_folders_are_refused_in_a_sentence(saved, tmp_path, damage, sentence):
    folder = copy_of(saved("v2-base")[0], tmp_path)
    damage(folder)
    with pytest.raises(ValueError, match=sentence):
        inspect(folder)


def test_a_missing_key_is_named(saved, tmp_path):
    folder = copy_of(saved("v2-base")[0], tmp_path)
    (path,) = (folder / "text_encoder").glob("*.safetensors")
    state = {key: tensor for key, tensor in load_file(path).items() if "final_layer_norm" not in key}
    path.unlink()
    save_file(state, path)
    with pytest.raises(
        ValueError, match=r"copy does not fit .* 2 missing keys \(model.ln_final.weight"
    ):
        load_checkpoint(folder)


def test_an_unknown_key_is_named(saved, tmp_path):
    folder = copy_of(saved("v2-base")[0], tmp_path)
    (path,) = (folder / "unet").glob("*.safetensors")
    state = load_file(path) | {"add_embedding.linear_1.weight": torch.ones(2, 2)}
    path.unlink()
    save_file(state, path)
    with pytest.raises(ValueError, match=r"copy does not fit .* 1 unexpected key \(add_embedding.linear_1.weight\)"):
        load_checkpoint(folder)


def test_the_sizes_are_the_weights_own(saved):
    assert inspect(saved("x4")[0]).spec == without_the_last_layer(tiny_spec("x4"))


# ---- where folders are found


@pytest.fixture
def models(saved, tmp_path, monkeypatch):
    """A models folder with a file in checkpoints and the same weights in diffusers, in a folder that is a link."""
    folder, file = saved("v2-v")
    for kind, path in (("checkpoints", file), ("diffusers/by-someone", folder)):
        (tmp_path / kind).mkdir(parents=True)
        (tmp_path / kind / path.name).symlink_to(path)
    monkeypatch.setenv("SD2_MODELS_DIR", str(tmp_path))
    return tmp_path


def test_folders_are_offered_beside_the_files(models):
    names = backend.list_models("checkpoints")
    assert [name for name in names if "demo" not in name] == ["by-someone/tiny", "tiny.safetensors"]
    assert backend.resolve_model("checkpoints", "by-someone/tiny") == models / "diffusers" / "by-someone" / "tiny"
    loader = NODE_CLASS_MAPPINGS["SD2CheckpointLoader"]
    for name in ("by-someone/tiny", str(models / "diffusers" / "by-someone" / "tiny")):
        assert loader.VALIDATE_INPUTS(name) is True
    assert str(models / "diffusers" / "by-someone") in loader.VALIDATE_INPUTS("by-someone/other")
    with pytest.raises(ValueError, match="is outside"):
        backend.resolve_model("checkpoints", "../tiny")


def test_a_changed_folder_is_noticed(models, saved, tmp_path):
    copy = copy_of(saved("v2-v")[0], tmp_path)
    fingerprint = NODE_CLASS_MAPPINGS["SD2CheckpointLoader"].IS_CHANGED
    before = fingerprint(str(copy), "auto", "auto")
    assert fingerprint(str(copy), "auto", "auto") == before
    change(copy / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    assert fingerprint(str(copy), "auto", "auto") != before


def test_same_picture_from_the_folder_and_the_file(models):
    nodes = {name: node() for name, node in NODE_CLASS_MAPPINGS.items()}
    pictures = []
    for name in ("by-someone/tiny", "tiny.safetensors"):
        model, clip, vae, *_ = nodes["SD2CheckpointLoader"].load(name)
        positive, negative = (nodes["SD2CLIPTextEncode"].encode(clip, text)[0] for text in ("a red cat", ""))
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        latent = nodes["SD2KSampler"].sample(model, 3, 4, 6.0, "ddim", "ldm", positive, negative, latent)[0]
        pictures += nodes["SD2VAEDecode"].decode(latent, vae)
    assert torch.equal(*pictures)
    assert pictures[0].std() > 0.1


def test_inspect_takes_a_folder(models, capsys):
    for name in ("by-someone/tiny", str(models / "diffusers" / "by-someone" / "tiny")):
        assert main(["inspect", name]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("tiny: v2-v, text-to-image")
        assert lines[1] == "prediction: v_prediction (scheduler/scheduler_config.json next to the weights)"
    assert main(["inspect", str(models)]) == 2
    assert "has no model_index.json" in capsys.readouterr().err
