"""Valid settings that do nothing in some combination are said in one line of the log; those that work are not."""

import logging

import pytest
import torch
from helpers import call, empty, prompts, sample
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.pipeline.unclip import ImageEmbedding, class_condition, with_image


@pytest.fixture
def said(caplog):
    """What has been said since the last look."""
    caplog.set_level(logging.INFO, "sd2_family")

    def look():
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    return look


@pytest.fixture
def sampled(load, said):
    """The latent that SD2 KSampler makes of ones with these widgets, and what is said."""
    file = load("v2-base")
    positive, negative = prompts(file)
    said()

    def run(mask=None, **widgets):
        latent = {"samples": torch.ones(1, 4, 8, 8)} | ({} if mask is None else {"noise_mask": mask})
        return sample(file, positive, negative, latent, **widgets)["samples"], said()

    return run


@pytest.mark.parametrize(
    ("widgets", "sentence"),
    [
        ({"eta": 0.5, "sampler_name": "euler"}, "eta 0.5 has no effect with euler; choose ddim"),
        ({"eta": 1.0, "sampler_name": "plms"}, "eta 1 has no effect with plms"),
        ({"eta": 1.0, "sampler_name": "dpmpp_2m_sde"}, "eta 1 has no effect with dpmpp_2m_sde"),
        ({"cfg_rescale": 0.7, "cfg": 1.0}, "cfg_rescale 0.7 has no effect at cfg 1"),
        ({"cfg": 0.0}, "cfg is 0, so the positive prompt has no effect"),
        ({"steps": 3, "denoise": 0.3}, "denoise 0.3 with 3 steps leaves only the last step of ldm"),
        ({"steps": 10, "denoise": 0.05}, "use 40 steps or more, or scheduler normal"),
        ({"steps": 10, "denoise": 0.1}, "denoise 0.1 with 10 steps leaves only the last step of ldm"),
        ({"steps": 1}, "ldm with 1 step starts at the lowest noise level"),
        ({"steps": 1, "scheduler": "ddim_uniform"}, "ddim_uniform with 1 step starts at the lowest noise level"),
    ],
)
def test_a_setting_of_the_sampler_that_does_nothing_is_said(sampled, widgets, sentence):
    _, lines = sampled(**widgets)
    assert len(lines) == 1
    assert sentence in lines[0]


@pytest.mark.parametrize(
    "widgets",
    [
        {},
        {"eta": 0.5},
        {"cfg_rescale": 0.7},
        {"cfg": 1.0},
        {"steps": 4, "denoise": 0.5},
        {"steps": 1, "scheduler": "normal"},
        {"steps": 3, "denoise": 0.1, "scheduler": "karras"},
        {"sampler_name": "plms", "scheduler": "karras"},
    ],
)
def test_settings_that_work_are_not_talked_about(sampled, widgets):
    latent, lines = sampled(**widgets)
    assert lines == []
    assert (latent - 1).abs().max() > 0.1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"denoise": 0.0}, "denoise is 0, so the latent is unchanged"),
        ({"denoise": 0.0, "scheduler": "karras"}, "denoise is 0, so the latent is unchanged"),
        ({"mask": torch.zeros(1, 1, 64, 64)}, "the latent's mask is empty, so the latent is unchanged"),
    ],
)
def test_an_unchanged_latent_is_said_to_be(sampled, options, sentence):
    latent, lines = sampled(**options)
    assert torch.equal(latent, torch.ones(1, 4, 8, 8))
    assert len(lines) == 1
    assert sentence in lines[0]


@pytest.mark.parametrize("denoise", [0.3, 0.05, 0.01])
def test_a_denoise_that_rounds_to_no_step_takes_one(sampled, denoise):
    latent, _ = sampled(steps=3, denoise=denoise)
    assert not torch.equal(latent, torch.ones(1, 4, 8, 8))


def test_the_stand_in_sampler_says_that_the_latent_is_unchanged(load, said):
    file = load("v2-base")
    positive, negative = prompts(file)
    said()
    widgets = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.0}
    STOCK["KSampler"]().sample(file.model, positive, negative, empty(), **widgets)
    assert said() == ["denoise is 0, so the latent is unchanged; raise it to sample"]


@pytest.mark.parametrize(
    ("node", "widgets", "sentence"),
    [
        ("SD2Scheduler", {"scheduler": "ldm", "steps": 20, "denoise": 0.0}, "the latent is unchanged"),
        ("SD2Scheduler", {"scheduler": "ldm", "steps": 600}, "600 steps become 1000"),
        ("SD2Scheduler", {"scheduler": "ddim_uniform", "steps": 350}, "350 steps become 500"),
        ("SD2Scheduler", {"scheduler": "ldm", "steps": 30}, None),  # 31
        ("SD2Scheduler", {"scheduler": "normal", "steps": 600}, None),
        ("SD2Sampler", {"sampler_name": "heun", "eta": 1.0}, "eta 1 has no effect with heun"),
        ("SD2Sampler", {"sampler_name": "ddim", "eta": 1.0}, None),
    ],
)
def test_custom_sampling_nodes(load, said, node, widgets, sentence):
    model = {"model": load("v2-base").model} if node == "SD2Scheduler" else {}
    said()
    call(node, **model, **widgets)
    lines = said()
    assert len(lines) == (sentence is not None)
    assert all(sentence in line for line in lines)


@pytest.mark.parametrize(
    ("values", "widgets", "sentence"),
    [
        ("dot", {"grow": -20}, "nothing is left of the mask after threshold 0.5 and grow -20"),
        ("faint", {}, "nothing is left of the mask after threshold 0.5 and grow 0"),
        ("none", {"invert": True}, "invert has no effect, because the image has no mask"),
        ("dot", {"grow": -1}, None),
        ("faint", {"threshold": 0.0}, None),
        ("none", {}, None),
        ("full", {"invert": True}, None),
    ],
)
def test_a_mask_that_is_gone(said, values, widgets, sentence):
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:30, 20:30] = {"dot": 1.0, "faint": 0.3, "none": 0.0, "full": 1.0}[values]
    if values == "full":
        mask[:] = 1
    call("SD2MaskPreprocess", mask, **widgets)
    lines = said()
    assert len(lines) == (sentence is not None)
    assert all(sentence in line for line in lines)


@pytest.mark.parametrize(
    ("value", "color_match", "sentence"),
    [
        (0.0, True, "the mask is empty, so the image is the original"),
        (0.0, False, "the mask is empty, so the image is the original"),
        (1.0, True, "color_match has no effect, because the mask keeps no pixel"),
        (1.0, False, None),
    ],
)
def test_composites_without_two_sides(said, value, color_match, sentence):
    image = torch.rand(1, 8, 8, 3)
    call("SD2Composite", image, image.flip(1), torch.full((1, 8, 8), value), color_match)
    lines = said()
    assert len(lines) == (sentence is not None)
    assert all(sentence in line for line in lines)


@pytest.mark.parametrize(
    ("weights", "mix_level", "sentences"),
    [
        ([0.5], 50, ["weight 0.5 has no effect on a single image"]),
        ([-1.0], 50, ["weight -1 has no effect on a single image"]),
        ([1.0], 300, ["mix_noise_level 300 has no effect on a single image"]),
        ([1.0], 50, []),
        ([0.5, 0.2], 300, []),
    ],
)
def test_the_mix_of_a_single_image(load, said, weights, mix_level, sentences):
    model = load("unclip-l").model
    said()
    conditioning = [[torch.zeros(1, 77, 8), {}]]
    for weight in weights:
        embedding = ImageEmbedding(torch.ones(1, model.augmentation.dim))
        conditioning = with_image(conditioning, embedding, weight=weight, level=0, seed=0, mix_level=mix_level)
    class_condition("a", model.augmentation, conditioning[0][1])
    lines = said()
    assert len(lines) == len(sentences)
    assert all(sentence in line for sentence, line in zip(sentences, lines, strict=True))


@pytest.mark.parametrize(
    ("sides", "feathering", "sentence"),
    [
        ((0, 0, 0, 0), 4, "left, top, right and bottom are 0, so nothing is padded"),
        (
            (8, 0, 0, 0),
            40,
            "feathering 40 is too large for an image of 20 x 16, so its edge stays sharp; use at most 7",
        ),
        ((8, 0, 0, 0), 8, "use at most 7"),
        ((8, 0, 0, 0), 7, None),
        ((8, 0, 0, 0), 0, None),
    ],
)
def test_padding(said, sides, feathering, sentence):
    _, mask = STOCK["ImagePadForOutpaint"]().expand_image(torch.rand(1, 16, 20, 3), *sides, feathering)
    lines = said()
    assert len(lines) == (sentence is not None)
    assert all(sentence in line for line in lines)
    if any(sides):
        assert bool(((mask > 0) & (mask < 1)).any()) == (sentence is None and feathering > 0)


@pytest.mark.parametrize(("x", "y"), [(8, 0), (0, 8), (900, 900)])
def test_pasting_beside_the_image(said, x, y):
    image = torch.rand(1, 8, 8, 3)
    (result,) = STOCK["ImageCompositeMasked"]().composite(image, image.flip(1), x, y, False)
    assert torch.equal(result, image)
    assert said() == ["x and y are outside the destination, so nothing is pasted; set them to a place inside it"]
