"""Inside a mask, the guidance of an inpainting model rises from the mask's edge."""

import pytest
import torch
from helpers import call, picture, prompts, sample
from sd2_family.models.specs import SPECS
from sd2_family.pipeline.inpaint import TAPER, guidance

CFG = 5.0


def square():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 3:14, 3:14] = 1
    return mask


def test_it_rises_over_three_latents():
    scale = guidance(CFG, square(), SPECS["v2-inpaint"])
    assert TAPER == 3
    assert scale[0, 0, 8, 3:9].tolist() == [2, 3, 4, 5, 5, 5]
    thin = torch.zeros(1, 1, 8, 8)
    thin[..., 4, :] = 1  # across the image
    assert guidance(CFG, thin, SPECS["v2-inpaint"])[0, 0, 4].tolist() == [CFG] * 8


@pytest.mark.parametrize(
    ("kind", "mask", "cfg"),
    [
        ("v2-inpaint", None, CFG),
        ("v2-inpaint", square() / 2, CFG),
        ("v2-base", square(), CFG),
        ("v1-inpaint", square(), 1),
    ],
)
def test_it_is_the_same_everywhere_otherwise(kind, mask, cfg):
    assert guidance(cfg, mask, SPECS[kind]) == cfg


@pytest.mark.parametrize("kind", ["v2-inpaint", "v1-inpaint"])
def test_sd2_ksampler_tapers_it(load, kind, monkeypatch):
    """One step, so the result is linear in the guidance: an even one of 1 and of 5 give all in between."""
    file = load(kind)
    mask = square().repeat_interleave(8, 2).repeat_interleave(8, 3)
    positive, negative, latent = call("SD2VAEEncodeForInpaint", *prompts(file), file.vae, picture(128, 128), mask)

    def sampled(cfg):
        return sample(
            file, positive, negative, latent, seed=1, steps=1, cfg=cfg, sampler_name="euler", scheduler="normal"
        )["samples"]

    tapered = sampled(CFG)
    monkeypatch.setattr("sd2_family.pipeline.sample.guidance", lambda scale, mask, spec: scale)
    plain, full = sampled(1.0), sampled(CFG)
    share = (guidance(CFG, square(), file.model.spec) - 1) / (CFG - 1)
    assert (full - plain)[square().expand(1, 4, -1, -1) == 1].abs().mean() > 0.01
    assert torch.allclose(tapered, plain + share * (full - plain), atol=1e-4)
