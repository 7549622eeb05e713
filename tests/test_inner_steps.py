"""Langevin steps inside a mask: a Gaussian with a known conditional, and what the nodes make of `inner_steps`."""

import logging

import pytest
import torch
from helpers import call, picture, prompts, sample
from sd2_family.backends.sampler_object import SamplerObject
from sd2_family.pipeline.depth import options as depth_options
from sd2_family.pipeline.progress import reporting
from sd2_family.pipeline.types import with_options
from sd2_family.samplers import SAMPLERS, SCHEDULERS, NoiseSchedule, gradual, run, step_noise
from sd2_family.samplers import langevin as module

SCHEDULE = NoiseSchedule()
COUNT = 20_000
KEPT = 1.5
# two unknown pixels between two known ones
COVARIANCE = torch.tensor([[1.0, 0.8, 0.5, 0.2], [0.8, 1.0, 0.8, 0.5], [0.5, 0.8, 1.0, 0.8], [0.2, 0.5, 0.8, 1.0]])
UNKNOWN, KNOWN = [1, 2], [0, 3]


def conditional():
    """Mean [2] and covariance [2, 2] of the unknown pixels where the known ones are KEPT."""
    gain = COVARIANCE[UNKNOWN][:, KNOWN] @ torch.linalg.inv(COVARIANCE[KNOWN][:, KNOWN])
    return gain.sum(1) * KEPT, COVARIANCE[UNKNOWN][:, UNKNOWN] - gain @ COVARIANCE[KNOWN][:, UNKNOWN]


def gaussian(x, sigma):
    """The exact x0 of data with COVARIANCE around 0."""
    return x @ torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(4), COVARIANCE)


def unknown(inner_steps, sampler="ddim", **how):
    """Samples [COUNT, 2] of the unknown pixels."""
    latent, mask = torch.full((COUNT, 1, 1, 4), KEPT), torch.zeros(1, 1, 1, 4)
    mask[..., UNKNOWN] = 1
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    x = run(
        SAMPLERS[sampler],
        gaussian,
        SCHEDULERS["normal"](SCHEDULE, 100),
        noise=noise,
        step_noise=step_noise(latent, 1),
        latent=latent,
        mask=mask,
        inner_steps=inner_steps,
        **how,
    )
    assert torch.equal(x[..., KNOWN], latent[..., KNOWN])
    return x[:, 0, 0, UNKNOWN]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_follow_the_conditional_distribution(sampler):
    mean, covariance = conditional()
    x = unknown(5, sampler)
    # what is left of the error is that of the 100 outer steps, of lambda and of no steps at the lowest noise levels
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.06)


def test_replacing_what_is_known_does_not():
    mean, covariance = conditional()
    x = unknown(0)
    assert float((x.mean(0) - mean).abs().min()) > 0.3
    assert float((x.var(0) - covariance.diagonal()).abs().min()) > 0.1


def test_a_mask_that_changes_with_the_noise_is_followed():
    """Half-masked pixels are known in the first half of the run, and unknown in the second."""
    sigmas = SCHEDULERS["normal"](SCHEDULE, 20)
    latent, mask = torch.full((1, 1, 1, 4), 3.0), torch.tensor([0.0, 0.5, 0.5, 1.0]).reshape(1, 1, 1, 4)
    x = run(
        SAMPLERS["ddim"],
        lambda x, sigma: torch.full_like(x, 7.0),
        sigmas,
        noise=torch.zeros_like(latent),
        step_noise=lambda: torch.zeros_like(latent),
        latent=latent,
        mask=mask,
        mask_at=gradual(SCHEDULE, sigmas),
        inner_steps=2,
    )
    torch.testing.assert_close(x.flatten(), torch.tensor([3.0, 7.0, 7.0, 7.0]), rtol=0, atol=0.05)


def masked():
    """A latent with a hole."""
    samples, mask = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 3:7] = 1
    return {"samples": samples, "noise_mask": mask}


@pytest.mark.parametrize("kind", ["v1", "v2-base", "v2-v", "v2-depth", "unclip-h"])
def test_every_kind_repaints_the_hole_alone(load, kind):
    file, latent = load(kind), masked()
    sides = prompts(file)
    if kind == "v2-depth":
        sides = tuple(with_options(side, depth_options(picture(), 8, 8)) for side in sides)
    with_steps, without = (
        sample(file, *sides, latent, inner_steps=count, steps=3, cfg=2.0)["samples"] for count in (2, 0)
    )
    hole = latent["noise_mask"].expand_as(with_steps) > 0
    torch.testing.assert_close(with_steps[~hole], latent["samples"][~hole], rtol=0, atol=1e-5)
    assert with_steps.isfinite().all()
    assert float((with_steps - without)[hole].abs().mean()) > 0.05


def test_the_nodes_of_an_inpainting_workflow_work_with_any_checkpoint(load):
    file = load("v2-base")
    image, mask = picture(), torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:40] = 1
    given = {"image": image, "mask": mask, "fill": "original", "keep_unmasked": True}
    positive, negative, latent = call("SD2VAEEncodeForInpaint", *prompts(file), file.vae, **given)
    assert sample(file, positive, negative, latent, inner_steps=1)["samples"].isfinite().all()
    with pytest.raises(ValueError, match="or set inner_steps of SD2 KSampler to 3"):
        sample(file, positive, negative, latent)


def test_without_a_mask_they_do_nothing_and_that_is_said(load, caplog):
    caplog.set_level(logging.INFO, "sd2_family")
    file, latent = load("v2-base"), {"samples": masked()["samples"]}
    sides = prompts(file)
    want = sample(file, *sides, latent)["samples"]
    caplog.clear()
    assert torch.equal(sample(file, *sides, latent, inner_steps=5)["samples"], want)
    (record,) = caplog.records
    assert "inner_steps 5 has no effect on a latent without a mask" in record.getMessage()


def test_progress_counts_them_and_stops_at_any(load):
    file, done = load("v2-base"), []
    sides = prompts(file)
    levels = SCHEDULERS["ldm"](SCHEDULE, 5)[:-1]
    total = 5 + 3 * sum(float(sigma) >= module.LOWEST for sigma in levels)
    with reporting(lambda *step: done.append(step)):
        sample(file, *sides, masked(), inner_steps=3, steps=5)
    assert done == [(i + 1, total) for i in range(total)]

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with reporting(stop), pytest.raises(KeyboardInterrupt):
        sample(file, *sides, masked(), inner_steps=3, steps=5)


def test_the_guider_is_asked_without_guidance_for_them_and_counts_them():
    from test_sampler_object import LATENT, NOISE, Guider

    sigmas, scales, steps = SCHEDULERS["ldm"](SCHEDULE, 5).float(), [], []

    class Watched(Guider):
        cfg = 4.0

        def __call__(self, x, sigma, model_options, seed):
            scales.append(self.cfg)
            return super().__call__(x, sigma, model_options, seed)

    guider, mask = Watched(), masked()["noise_mask"]
    solver = SamplerObject(sampler_name="ddim", options={}, inner_steps=2)
    arguments = {"model_options": {}, "seed": 3}
    x = solver.sample(guider, sigmas, arguments, lambda *step: steps.append(step), NOISE, LATENT, mask, True)
    hole = mask.expand_as(x) > 0
    assert torch.equal(x[~hole], LATENT[~hole])
    first = float(sigmas[0]) >= module.LOWEST
    assert first
    assert scales[:3] == [1.0, 1.0, 4.0]
    assert guider.cfg == 4.0
    assert [step for step, *_ in steps] == list(range(len(scales)))
    assert {total for *_, total in steps} == {len(scales)}
