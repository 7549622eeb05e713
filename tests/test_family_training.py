"""The phases that make depth, unCLIP and x4 of the demo: they learn, resume exactly, and export what is recognised."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from checkpoint_layouts import layout
from PIL import Image
from safetensors.torch import load_file
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.unet import timestep_embedding
from sd2_family.models.weights_file import read
from sd2_family.pipeline import upscale
from sd2_family.pipeline.components import load
from sd2_family.training import (
    autoencoder_phase,
    dataset,
    depth_estimator,
    depth_phase,
    evaluate_family,
    export,
    generation,
    image_tower,
    networks,
    object_classifier,
    random_crops,
    random_masks,
    trainer,
    unclip_phase,
    upscale_phase,
    warm_start,
)
from sd2_family.training.latent_cache import scene_latents, tokens_of
from sd2_family.training.train import PHASES
from sd2_family.training.trainer import Plan

PLAN = Plan(steps=4, batch_size=4, learning_rate=1e-3)
FILE = {"depth": "v2-depth", "unclip": "unclip-h", "upscale": "x4"}
PARTS = {"depth": "estimator", "unclip": "tower", "upscale": "autoencoder4"}  # what each trains before its UNet
MODULES = {"depth": depth_phase, "unclip": unclip_phase, "upscale": upscale_phase}
SCENES = 6


def shaken(module, seed):
    """Its zero layers as training leaves them: not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return module.state_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where each phase has run for a few steps on a handful of scenes, after an autoencoder and a base of noise."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    torch.save({"average": shaken(networks.AutoencoderKL(networks.AUTOENCODER), 1)}, folder / "autoencoder.pt")
    base = shaken(networks.TextToImage(4), 2)
    text = {key: tensor for key, tensor in base.items() if key.startswith("text.")}  # learns in the base alone
    torch.save({"average": base}, folder / "base.pt")
    torch.save({"average": {**shaken(networks.TextToImage(4), 3), **text}}, folder / "v.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "SAVE_EVERY", 2)
        patch.setattr(dataset, "SCENE_COUNT", SCENES)
        patch.setattr(dataset, "LARGE_SCENE_COUNT", SCENES)
        patch.setattr(dataset, "VALIDATION_COUNT", 4)
        patch.setattr(depth_estimator, "ESTIMATOR_PLAN", PLAN)
        patch.setattr(image_tower, "TOWER_PLAN", PLAN)
        patch.setattr(upscale_phase, "AUTOENCODER_PLAN", PLAN)
        for phase in MODULES:
            PHASES[phase].train(folder, PLAN)
        yield folder


@pytest.fixture(scope="module")
def scenes(folder):
    return scene_latents(folder, autoencoder_phase.load_autoencoder(folder))


@pytest.mark.parametrize("phase", MODULES)
def test_a_stopped_phase_takes_the_same_steps(folder, phase, monkeypatch):
    whole = trainer.averaged(folder / f"{phase}.pt")
    (folder / f"{phase}.pt").rename(folder / f"{phase}.whole")
    module, calls = MODULES[phase], iter(range(100))
    loss = module.denoising_loss

    class Stopped(Exception):
        pass

    def stops(*args, **kwargs):
        if next(calls) == 3:
            raise Stopped
        return loss(*args, **kwargs)

    monkeypatch.setattr(module, "denoising_loss", stops)
    with pytest.raises(Stopped):
        PHASES[phase].train(folder, PLAN)
    assert torch.load(folder / f"{phase}.pt", weights_only=True)["step"] == 2
    monkeypatch.undo()
    PHASES[phase].train(folder, PLAN)
    resumed = trainer.averaged(folder / f"{phase}.pt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.fixture
def learns(tmp_path, monkeypatch):
    """learns(model, loss): the losses, on the same draws, before and after a few steps."""
    monkeypatch.setattr(trainer, "WARMUP", 1)
    return partial(_learns, tmp_path / "learns.pt")


def _learns(state, model, loss, steps=8):

    def measure(model):
        with torch.no_grad():
            generators = ((np.random.default_rng(i), torch.Generator().manual_seed(i)) for i in range(3))
            return float(np.mean([loss(model, *pair).item() for pair in generators]))

    before = measure(model)
    trainer.train(model, loss, Plan(steps=steps, batch_size=4, learning_rate=3e-3), state)
    return before, measure(model)


def test_the_estimator_learns(folder, learns):
    images, truth = dataset.scenes(folder, SCENES)[0], dataset.ground_truth(folder, SCENES)[0]
    torch.manual_seed(0)
    model = depth_estimator.DPTHybrid(depth_estimator.ESTIMATOR)
    before, after = learns(model, partial(depth_estimator.estimator_loss, images, truth, 4), 12)
    assert after < 0.9 * before


def test_the_tower_learns(folder, learns):
    images, labels = dataset.scenes(folder, SCENES)[0], image_tower.read_labels(folder, SCENES)
    torch.manual_seed(0)
    before, after = learns(image_tower.SceneReader(), partial(image_tower.tower_loss, images, labels, 8), 12)
    assert after < 0.9 * before


def oracle(x0_of, *, velocity=False, beta_start=0.00085, beta_end=0.012):
    """A model that knows the scenes: x0_of(conditions beside x_t, y) -> x0; it predicts the noise, or the velocity."""
    betas = np.linspace(beta_start**0.5, beta_end**0.5, 1000) ** 2
    alphas_cumprod = torch.from_numpy(np.cumprod(1 - betas))

    def model(x, t, tokens, y):
        x0, a = x0_of(x[:, 4:], y), alphas_cumprod[t].view(-1, 1, 1, 1)
        eps = (x[:, :4] - a.sqrt() * x0) / (1 - a).sqrt()
        return (a.sqrt() * eps - (1 - a).sqrt() * x0 if velocity else eps).float()

    return model


def loss_of(loss, model):
    """The loss of a model that needs no training, over three draws."""
    draws = ((np.random.default_rng(i), torch.Generator().manual_seed(i)) for i in range(3))
    return max(loss(model, *pair).item() for pair in draws)


def nearest(found, known):
    """The row of known [N, D] that each row of found [B, D] is."""
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(found.flatten(1), known.flatten(1), compute_mode=exact)
    assert distances.min(1).values.max() < 1e-5
    return distances.argmin(1)


def test_depth_loss_is_zero_for_the_noise_that_was_added(scenes):
    maps = torch.rand(SCENES, 1, 16, 16)
    loss = partial(depth_phase.depth_loss, scenes, maps, 4)
    assert loss_of(loss, oracle(lambda beside, y: scenes.images[nearest(beside, maps)])) < 1e-6
    wrong = oracle(lambda beside, y: scenes.images[(nearest(beside, maps) + 1) % SCENES])
    assert loss_of(loss, wrong) > 1e-2


def test_unclip_loss_is_zero_for_the_velocity_of_what_was_embedded(scenes, monkeypatch):
    embeddings = torch.randn(SCENES, image_tower.TOWER.embed_dim)
    monkeypatch.setattr(unclip_phase, "noised_embeddings", lambda vectors, choices, noise: vectors)
    loss = partial(unclip_phase.unclip_loss, scenes, embeddings, 4)
    assert loss_of(loss, oracle(lambda beside, y: scenes.images[nearest(y, embeddings)], velocity=True)) < 1e-6
    assert loss_of(loss, oracle(lambda beside, y: scenes.images[nearest(y, embeddings)])) > 1e-2


def test_upscale_loss_is_zero_for_the_velocity_of_the_crop(folder, monkeypatch):
    monkeypatch.setattr(upscale_phase, "CROP_SIDES", (16,))
    monkeypatch.setattr(upscale_phase.upscale, "add_noise", lambda small, levels, noise: small)
    large = upscale_phase.load_scenes(folder)
    crops, targets = (
        whole.unfold(2, 16, 1).unfold(3, 16, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        for whole in (large.small, large.latents)
    )
    model = oracle(lambda beside, y: targets[nearest(beside, crops)], velocity=True, beta_start=1e-4, beta_end=2e-2)
    loss = partial(upscale_phase.upscale_loss, large, 4)
    assert loss_of(loss, model) < 1e-6
    other = oracle(lambda beside, y: targets[nearest(beside, crops)], velocity=True)  # on the schedule of other kinds
    assert loss_of(loss, other) > 1e-4


def test_the_upscalers_autoencoder_learns(folder, learns, monkeypatch):
    """To show images again, and to keep the small image in its first three latents."""
    images, _ = dataset.large_scenes(folder, SCENES)
    torch.manual_seed(0)
    monkeypatch.setattr(upscale_phase, "CROP_SIDES", (16,))
    model = networks.new_autoencoder(upscale_phase.AUTOENCODER)
    before, after = learns(model, partial(upscale_phase.autoencoder_loss, images, 4), 12)
    assert after < 0.9 * before
    choices = np.random.default_rng(0)
    choices.choice(upscale_phase.CROP_SIDES)
    x = dataset.to_tensor(random_crops.random_crops(images, 4, choices)[1])
    with torch.no_grad():
        anchored = upscale_phase.autoencoder_loss(images, 4, model, np.random.default_rng(0), torch.Generator())
        plain, mean = autoencoder_phase.coding_loss(model, x, torch.Generator())
    small = x.unflatten(3, (16, 4)).unflatten(2, (16, 4)).mean((3, 5))
    assert torch.isclose(anchored - plain, (mean[:, :3] - small).pow(2).mean(), rtol=1e-3)


def test_flat_colors_survive_normalization():
    """A color and one twice as strong look the same once normalized, unless other channels hold the scale."""
    flat = torch.tensor([[-0.5, 0.2, 0.4], [0.3, -0.1, -0.8]])[:, :, None, None].expand(-1, -1, 32, 32)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 96, 3, padding=1, padding_mode="reflect")
    norm = torch.nn.GroupNorm(32, 96)
    with torch.no_grad():
        conv.bias.zero_()
        lost = norm(conv(2 * flat)) - norm(conv(flat))
        upscale_phase.preserve_flat_colors(conv, 3)
        kept = norm(conv(2 * flat)) - norm(conv(flat))
    assert lost.abs().max() < 0.01
    assert kept[:, ::3].abs().mean() > 0.1


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory):
    """The file of each phase."""
    out = tmp_path_factory.mktemp("out")
    vae, vocabulary = autoencoder_phase.load_autoencoder(folder), torch.arange(0, 60)
    return {phase: export.write(phase, folder, out, vae, vocabulary) for phase in ("base", *MODULES)}


@pytest.mark.parametrize("phase", MODULES)
def test_the_file_is_recognised_and_loads_whole(files, phase):
    path = files[phase]
    assert path.stat().st_size < 30_000_000
    model = load_checkpoint(path)
    module = MODULES[phase]
    assert model.kind == FILE[phase]
    assert model.prediction == export.FILES[phase].prediction
    assert model.spec.text == networks.TEXT
    if phase == "upscale":
        assert (model.spec.unet, model.spec.autoencoder) == (module.UNET, module.AUTOENCODER)
    else:
        assert model.spec.autoencoder == networks.AUTOENCODER
        assert model.spec.unet.model_channels == networks.UNET.model_channels
        assert model.spec.unet.attention == networks.UNET.attention
    assert model.spec.depth == (depth_estimator.ESTIMATOR if phase == "depth" else None)
    assert model.spec.image == (image_tower.TOWER if phase == "unclip" else None)


@pytest.mark.parametrize("phase", MODULES)
def test_the_file_has_the_official_keys(files, phase):
    """Whatever the numbers of blocks; but for the tables of the sampling schedule, which nothing reads."""

    def names(keys):
        return {re.sub(r"\d+", "0", key) for key in keys}

    found, official = names(read(files[phase]).tensors), names(key for key in layout(FILE[phase]) if "." in key)
    assert found <= official

    def groups(keys):
        return {".".join(key.split(".")[: 3 if key.startswith("embedder") else 1]) for key in keys}

    assert groups(found) == groups(official)


def test_what_they_share_is_stored_once(files):
    base = load_file(files["base"])
    shared = {"depth": ("cond_stage_model.", "first_stage_model."), "upscale": ("cond_stage_model.",)}
    for phase in MODULES:
        parts = shared.get(phase, shared["depth"])
        assert not any(key.startswith(parts) for key in load_file(files[phase]))
        whole = read(files[phase]).tensors
        left = [key for key in base if key.startswith(parts)]
        assert left
        assert all(torch.equal(whole[key], base[key]) for key in left)
    assert base["cond_stage_model.model.token_embedding.weight"][60:].abs().max() == 0  # tokens that no caption holds


def test_a_resumed_model_starts_as_the_base(folder):
    weights = trainer.averaged(folder / "base.pt")
    base, five = networks.TextToImage(4).eval(), networks.TextToImage(5).eval()
    base.load_state_dict(weights)
    warm_start.resume(five, weights)
    x, t, tokens = torch.randn(2, 4, 16, 16), torch.tensor([3, 500]), tokens_of("a red cat").expand(2, 77)
    with torch.no_grad():
        before = base(x, t, tokens)
        guided = five(torch.cat([x, torch.randn(2, 1, 16, 16)], dim=1), t, tokens)
    assert before.abs().max() > 0.01
    assert torch.allclose(before, guided, atol=1e-5)  # values near 1, added up in another order


def test_an_image_has_an_effect_from_the_first_step(folder):
    """The size of the timestep embedding: a class condition that starts at zero has no effect after 800 steps."""
    unet = unclip_phase.image_conditioned().unet.eval()
    e = torch.randn(64, image_tower.TOWER.embed_dim)
    with torch.no_grad():
        images = unet.label_emb(unclip_phase.AUGMENTATION(e, torch.zeros(64, dtype=torch.int64), torch.zeros_like(e)))
        times = unet.time_embed(timestep_embedding(torch.arange(0, 1000, 16), unclip_phase.UNET.model_channels))
    assert 0.5 < images.std(0).mean() / times.std(0).mean() < 20  # the timestep's grows while the base is trained


@pytest.mark.parametrize(
    ("phase", "files", "before"),
    [
        ("unclip", ("v", "base", "start"), "v"),
        ("unclip", ("base", "start"), "start"),
        ("depth", ("v", "base", "start"), "base"),
        ("depth", ("start",), "start"),
        ("inpaint", ("base", "start"), "start"),
        ("upscale", (), "base"),  # for the message that it has not been trained
    ],
)
def test_what_a_phase_goes_on_from(tmp_path, phase, files, before):
    for name in files:
        (tmp_path / f"{name}.pt").touch()
    assert warm_start.predecessor(phase, tmp_path) == tmp_path / f"{before}.pt"


def test_each_small_image_is_noised_to_its_level():
    """As far as the reference's schedule, written out here, noises it."""
    alphas = np.cumprod(1 - np.linspace(1e-4**0.5, 2e-2**0.5, 1000) ** 2)
    small, noise, levels = torch.rand(3, 3, 8, 8) * 2 - 1, torch.randn(3, 3, 8, 8), [0, 120, 350]
    found = upscale.add_noise(small, torch.tensor(levels), noise)
    for i, level in enumerate(levels):
        expected = alphas[level] ** 0.5 * small[i] + (1 - alphas[level]) ** 0.5 * noise[i]
        assert torch.allclose(found[i], expected, atol=1e-6)


def test_latents_are_those_of_the_images_and_of_their_masked_copies(folder, scenes):
    """Against the network itself, in -1..1 and a batch at once: rounding alone differs."""
    vae = autoencoder_phase.load_autoencoder(folder)
    images, notes = dataset.scenes(folder, SCENES)
    masks = torch.stack(
        [
            torch.from_numpy(random_masks.random_mask(np.random.default_rng((i, 2)), dataset.SIZE, note["boxes"]))
            for i, note in enumerate(notes)
        ]
    )
    x = dataset.to_tensor(images)
    with torch.no_grad():
        found = {
            "images": networks.AUTOENCODER.scale * vae.autoencoder.encode(x),
            "masked": networks.AUTOENCODER.scale * vae.autoencoder.encode(x * (1 - masks[:, None])),
            "gray": networks.AUTOENCODER.scale * vae.autoencoder.encode(torch.zeros(1, 3, 128, 128)),
            "masks": masks.unflatten(2, (16, 8)).unflatten(1, (16, 8)).amax((2, 4))[:, None],
        }
    for name, expected in found.items():
        assert torch.allclose(getattr(scenes, name), expected, atol=1e-4), name


def test_the_depth_loss_knows_no_scale_and_no_shift():
    torch.manual_seed(0)
    truth = torch.rand(2, 32, 32)
    assert depth_estimator.midas_loss(3 * truth + 5, truth) < 1e-4
    assert depth_estimator.midas_loss(-truth, truth) > 1
    assert depth_estimator.midas_loss(torch.zeros(2, 32, 32), truth).isfinite()


def test_the_tower_is_exported_normalized(folder):
    images, _ = dataset.scenes(folder, SCENES)
    e = image_tower.embed(image_tower.load_tower(folder), images)
    assert e.mean(0).abs().max() < 1e-5
    assert (e.std(0) - 1).abs().max() < 1e-5


def test_the_upscalers_latents_are_normalized(folder):
    images, _ = dataset.large_scenes(folder, SCENES)
    _, sharp = random_crops.random_crops(images, 64, np.random.default_rng(0), upscale_phase.LARGEST_CROP)
    z = upscale_phase.AUTOENCODER.scale * upscale_phase.load_upscale_autoencoder(folder).encode(
        dataset.to_floats(sharp)
    )
    assert z.mean((0, 2, 3)).abs().max() < 1e-5
    assert (z.std((0, 2, 3)) - 1).abs().max() < 1e-5


def test_what_is_in_an_image(folder):
    notes = dataset.ground_truth(folder, SCENES)[1]
    labels = image_tower.SceneLabels.from_notes(notes)
    for i, note in enumerate(notes):
        assert labels.kinds[i].sum() == len(note["items"])
        for item in note["items"]:
            k = image_tower.KINDS.index(item["kind"])
            assert list(image_tower.COLORS)[labels.colors[i, k]] == item["color"]
            assert (labels.boxes[i, k] * 128).round().tolist() == item["box"]
    assert (labels.colors == image_tower.IGNORE_INDEX).sum() == labels.kinds.numel() - labels.kinds.sum()


@pytest.mark.parametrize(
    ("phase", "starts", "size"),
    [
        ("depth", ["estimated depth: correlation", "followed depth: correlation"], (256, 384)),
        ("unclip", ["images: ", "variations: "], (256, 384)),
        ("upscale", ["bicubic: ", "upscaled: ", "autoencoder alone: "], (64, 128)),
    ],
)
def test_what_the_files_do_is_measured_and_drawn(files, folder, phase, starts, size, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_family, "generate", partial(generation.generate, steps=2))
    monkeypatch.setattr(evaluate_family, "load_classifier", lambda folder: object_classifier.Classifier().eval())
    monkeypatch.setattr(dataset, "LARGE", 64)
    loaded = load(files[phase], dtype=torch.float32)
    lines = list(evaluate_family.MEASURES[phase](loaded, folder, 2, tmp_path / "sheet.png"))
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * len(starts)
    assert "nan" not in "".join(lines)
    assert Image.open(tmp_path / "sheet.png").size == size
