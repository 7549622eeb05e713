"""Pictures as conditions: their noise and their mix, the nodes, and what is said of wrong pairings."""

import logging
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from helpers import call, empty, picture, prompts, sample
from safetensors.torch import save_file
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.backends import backend
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.detection import inspect
from sd2_family.models.noise_augmentation import NoiseAugmentation, Statistics, squared_cosine_betas
from sd2_family.pipeline.unclip import ImageEmbedding, class_condition
from tiny import tiny_state

DIM = 64


def embedding(seed, count=1, dim=DIM):
    return ImageEmbedding(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def chain(*pictures, mix=50):
    """The options of a conditioning after one node for each (embedding, weight, level, seed)."""
    conditioning = [[torch.zeros(1, 77, 64), {"strength": 0.5}]]
    for output, *widgets in pictures:
        (conditioning,) = call("SD2UnCLIPConditioning", conditioning, output, *widgets, mix_noise_level=mix)
    return conditioning[0][1]


def noise(seed, draws=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, DIM, generator=generator) for _ in range(draws)]


def noised(augmentation, embeddings, level, drawn):
    return augmentation(embeddings, torch.full((len(embeddings),), level), drawn)


# ---- noise


def test_schedule_is_squaredcos_cap_v2():
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    assert torch.allclose(squared_cosine_betas(1000).float(), theirs.betas, rtol=0, atol=1e-7)
    # diffusers multiplies a thousand factors in float32
    assert torch.allclose(NoiseAugmentation(8).alphas_cumprod, theirs.alphas_cumprod, rtol=0, atol=1e-5)


def test_tables_are_those_of_each_other():
    tables = NoiseAugmentation(8)
    alphas = tables.alphas_cumprod.double()
    pairs = {
        "alphas_cumprod_prev": torch.cat([torch.ones(1).double(), alphas[:-1]]),
        "sqrt_recip_alphas_cumprod": alphas**-0.5,
        "log_one_minus_alphas_cumprod": (1 - alphas).log(),
        "sqrt_recipm1_alphas_cumprod": (1 / alphas - 1) ** 0.5,
    }
    for name, expected in pairs.items():
        assert torch.allclose(getattr(tables, name).double(), expected, rtol=1e-3, atol=1e-6), name


def test_noise_is_added_in_units_of_the_data():
    x, (drawn,) = embedding(1).image_embeds, noise(2)
    mean, std = torch.full((DIM,), 3.0), torch.full((DIM,), 0.1)
    plain = noised(NoiseAugmentation(DIM), (x - 3) / 0.1, 400, drawn)[:, :DIM]
    scaled = noised(NoiseAugmentation(DIM, Statistics(mean, std, "test")), x, 400, drawn)
    assert torch.allclose(scaled[:, :DIM], plain * 0.1 + 3, atol=1e-5)
    cosine_and_sine = scaled[0, [DIM, DIM + DIM // 2]]  # at frequency 1
    assert torch.allclose(cosine_and_sine, torch.tensor([math.cos(400), math.sin(400)]), atol=1e-4)


# ---- mixing


def test_one_picture_is_noised_by_its_seed_whatever_its_weight():
    augmentation, picture = NoiseAugmentation(DIM), embedding(1)
    expected = noised(augmentation, picture.image_embeds, 300, *noise(5))
    for weight in (1.0, 0.2, -3.0):
        vector = class_condition("x", augmentation, chain((picture, weight, 300, 5)))
        assert torch.allclose(vector, expected, atol=1e-5)


def test_several_pictures_are_averaged_by_weight_and_the_mix_is_noised():
    augmentation = NoiseAugmentation(DIM)
    a, b = embedding(1), embedding(2)
    first, second = noise(5)[0], noise(6, draws=2)
    mix = 2 * noised(augmentation, a.image_embeds, 300, first) - 0.5 * noised(
        augmentation, b.image_embeds, 20, second[0]
    )
    expected = noised(augmentation, mix[:, :DIM] / 1.5, 80, second[1])
    vector = class_condition("x", augmentation, chain((a, 2.0, 300, 5), (b, -0.5, 20, 6), mix=80))
    assert torch.allclose(vector, expected, atol=1e-5)


def test_a_batch_of_pictures_is_a_mix_too():
    augmentation, both = NoiseAugmentation(DIM), embedding(1, count=2)
    one, two, last = noise(5, draws=3)
    parts = [noised(augmentation, both.image_embeds[i : i + 1], 10, drawn) for i, drawn in enumerate((one, two))]
    expected = noised(augmentation, ((parts[0] + parts[1]) / 2)[:, :DIM], 50, last)
    assert torch.allclose(class_condition("x", augmentation, chain((both, 0.7, 10, 5))), expected, atol=1e-5)


def test_levels_end_with_the_schedule_and_weight_0_leaves_out():
    augmentation, picture = NoiseAugmentation(DIM), embedding(1)
    last = [class_condition("x", augmentation, chain((picture, 1.0, level, 5))) for level in (999, 1000)]
    assert torch.equal(*last)
    assert chain((picture, 0, 10, 5)) == {"strength": 0.5}


def test_the_node_adds_and_changes_nothing_it_was_given():
    conditioning = [[torch.zeros(1, 77, 64), {"strength": 0.5}]]
    (first,) = call("SD2UnCLIPConditioning", conditioning, embedding(1), 1.0, 0, 3)
    (second,) = call("SD2UnCLIPConditioning", first, embedding(2), 1.0, 0, 3)
    assert conditioning[0][1] == {"strength": 0.5}
    assert len(first[0][1]["unclip_conditioning"]) == 1
    entry = second[0][1]["unclip_conditioning"][1]
    # what ComfyUI's own unCLIP models read
    assert entry["strength"] == 1
    assert entry["noise_augmentation"] == 0
    assert entry["clip_vision_output"]["image_embeds"] is entry["clip_vision_output"].image_embeds
    assert second[0][1]["unclip_noise_augment_merge"] == 50 / 999


def test_weights_that_cancel_out_are_refused():
    with pytest.raises(ValueError, match=r"add up to 0.*change one weight"):
        class_condition("x", NoiseAugmentation(DIM), chain((embedding(1), 1, 0, 0), (embedding(2), -1, 0, 0)))


# ---- files


def sampled(file, positive):
    return sample(file, positive, prompts(file)[1], empty())["samples"]


def text(file):
    return prompts(file)[0]


def test_pictures_guide_beside_and_without_a_prompt(load):
    file = load("unclip-h")
    outputs = [
        STOCK["CLIPVisionEncode"]().encode(file.clip_vision, one[None], "none")[0] for one in picture(40, 50, count=2)
    ]
    results = [sampled(file, text(file))]
    for output in outputs:
        results.append(sampled(file, call("SD2UnCLIPConditioning", text(file), output, 1.0, 0, 0)[0]))
    assert all(result.isfinite().all() for result in results)
    assert (results[0] - results[1]).abs().max() > 0.01
    assert (results[1] - results[2]).abs().max() > 0.01


def test_wrong_pairings_say_what_to_load(load):
    h, low, plain = (load(kind) for kind in ("unclip-h", "unclip-l", "v2-base"))
    image = picture(32, 32)
    with pytest.raises(ValueError, match=r"^v2-base.safetensors has no image encoder; unCLIP needs sd21-"):
        STOCK["CLIPVisionEncode"]().encode(plain.clip_vision, image, "center")
    (narrow,) = call("SD2UnCLIPConditioning", text(h), low.clip_vision.encode_image(image), 1.0, 0, 0)
    with pytest.raises(ValueError, match=r"are 48-dim, but unclip-h.safetensors expects 64; use the clip_v"):
        sampled(h, narrow)
    (on_plain,) = call("SD2UnCLIPConditioning", text(plain), h.clip_vision.encode_image(image), 1.0, 0, 0)
    with pytest.raises(
        ValueError, match=r"kind v2-base.*an image embedding, which needs a checkpoint of kind unclip-h or unclip-l"
    ):
        sampled(plain, on_plain)


def test_statistics_of_l_come_from_beside_the_file_and_their_lack_is_told(own_models, caplog):
    models = own_models("unclip-h", "unclip-l")
    path = models / "unclip-l.safetensors"
    with caplog.at_level(logging.WARNING, logger="sd2_family"):
        report = load_checkpoint(path).report
    assert "put ViT-L-14_stats.th in the same folder" in caplog.text
    assert "put ViT-L-14_stats.th in the same folder" in report
    changed = NODE_CLASS_MAPPINGS["SD2CheckpointLoader"].IS_CHANGED("unclip-l.safetensors", "auto", "auto")

    mean, std = torch.randn(48), torch.rand(48)
    torch.save((mean, std), models / "ViT-L-14_stats.th")  # what the authors' code reads
    caplog.clear()
    loaded = load_checkpoint(path)
    assert not caplog.records
    assert torch.equal(loaded.noise_augmentation.data_mean, mean)
    assert torch.equal(loaded.noise_augmentation.data_std, std)
    assert "from ViT-L-14_stats.th in the same folder" in loaded.report
    assert changed != NODE_CLASS_MAPPINGS["SD2CheckpointLoader"].IS_CHANGED("unclip-l.safetensors", "auto", "auto")
    # H was trained without
    assert load_checkpoint(models / "unclip-h.safetensors").noise_augmentation.data_std.eq(1).all()

    torch.save((mean[:5], std[:5]), models / "ViT-L-14_stats.th")
    with pytest.raises(
        ValueError, match=r"is for 5-dim image embeddings, but the checkpoint in the same folder expects 48"
    ):
        inspect(path)
    (models / "ViT-L-14_stats.th").write_bytes(b"not one")
    with pytest.raises(ValueError, match="does not contain the mean and standard deviation"):
        inspect(path)


def test_statistics_in_the_file_itself(tmp_path):
    state = tiny_state("unclip-l")
    state |= {"noise_augmentor.data_mean": torch.full((1, 48), 2.0), "noise_augmentor.data_std": torch.ones(1, 48)}
    save_file(state, tmp_path / "own.safetensors")
    loaded = load_checkpoint(tmp_path / "own.safetensors")
    assert loaded.noise_augmentation.data_mean.eq(2).all()
    assert "from the file itself" in loaded.report


NEAR_MISSES = {
    "embedder.model.visual.proj": "misshapen",
    "embedder.model.visual.ln_pre.bias": "missing",
    "embedder.model.visual.extra": "unexpected",
    "embedder.model.visual.transformer.resblocks.1.mlp.c_fc.weight": "misshapen",
    "noise_augmentor.sqrt_alphas_cumprod": "misshapen",
}


@pytest.mark.parametrize(("key", "problem"), NEAR_MISSES.items())
def test_a_near_miss_is_refused_by_name(tmp_path, key, problem):
    state = tiny_state("unclip-h")
    if problem == "missing":
        del state[key]
    else:
        state[key] = torch.zeros(3, 3)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"x.safetensors does not fit.*{problem}.*{key.split('.')[-1]}"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_a_file_without_tower_or_tables_still_loads(tmp_path):
    state = {
        key: tensor
        for key, tensor in tiny_state("unclip-h").items()
        if not key.startswith(("embedder.", "noise_augmentor."))
    }
    save_file(state, tmp_path / "bare.safetensors")
    loaded = backend.load_checkpoint(str(tmp_path / "bare.safetensors"))
    with pytest.raises(ValueError, match=r"bare.safetensors has no image encoder"):
        loaded.clip_vision.encode_image(torch.rand(1, 8, 8, 3))
    assert torch.equal(loaded.model.noise_augmentation.betas, NoiseAugmentation(DIM).betas)


# ---- embeddings made elsewhere


@pytest.fixture
def prior(tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "input_dir", lambda: tmp_path)
    return SimpleNamespace(save=lambda name, **tensors: save_file(tensors, tmp_path / name), folder=tmp_path)


def test_embeddings_made_elsewhere(prior):
    vector = torch.randn(DIM)
    prior.save("a.safetensors", anything=vector.half())
    prior.save("b.safetensors", image_embeds=torch.stack([vector, -vector]), other=torch.zeros(3))
    node = NODE_CLASS_MAPPINGS["SD2LoadImageEmbedding"]
    assert node.INPUT_TYPES()["required"]["file"][0] == ["a.safetensors", "b.safetensors"]
    one, two = (call("SD2LoadImageEmbedding", f"{name}.safetensors")[0].image_embeds for name in "ab")
    assert torch.allclose(one, vector[None], atol=2e-3)
    assert torch.equal(two, torch.stack([vector, -vector]))
    options = chain((ImageEmbedding(one), 1.0, 0, 0))
    expected = noised(NoiseAugmentation(DIM), one, 0, *noise(0))
    assert torch.allclose(class_condition("x", NoiseAugmentation(DIM), options), expected, atol=1e-6)
    changed = node.IS_CHANGED("a.safetensors")
    shutil.copy(prior.folder / "b.safetensors", prior.folder / "a.safetensors")
    assert node.IS_CHANGED("a.safetensors") != changed


def test_files_that_are_no_embeddings(prior):
    node = NODE_CLASS_MAPPINGS["SD2LoadImageEmbedding"]
    prior.save("two.safetensors", a=torch.zeros(3), b=torch.zeros(4))
    prior.save("picture.safetensors", a=torch.zeros(1, 3, 8, 8))
    prior.save("nan.safetensors", a=torch.full((3,), float("nan")))
    (prior.folder / "text.safetensors").write_text("no")
    for name in ("two", "picture", "nan"):
        with pytest.raises(ValueError, match=rf"{name}.safetensors contains .*save one finite tensor"):
            call("SD2LoadImageEmbedding", f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"text.safetensors is not a safetensors file"):
        call("SD2LoadImageEmbedding", "text.safetensors")
    assert node.VALIDATE_INPUTS("two.safetensors") is True
    assert node.VALIDATE_INPUTS(None) is True
    assert "is not in the input folder" in node.VALIDATE_INPUTS("absent.safetensors")
    assert "is outside" in node.VALIDATE_INPUTS("../two.safetensors")
