"""The stand-ins for KSampler and KSamplerAdvanced: noise levels, noise, steps, and what they lack."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import empty, loaded, prompts
from sd2_family.headless.check import check
from sd2_family.headless.graph import Workflow, WorkflowError
from sd2_family.headless.library import LIBRARY
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.headless.stock import core_sampler
from sd2_family.headless.stock.core_sampler import CORE_SAMPLERS, SAMPLER_INSTEAD, SCHEDULER_INSTEAD
from sd2_family.headless.stock.core_schedules import SCHEDULERS
from sd2_family.pipeline.types import Sampling
from sd2_family.samplers import SCHEDULERS as OURS
from sd2_family.samplers import BrownianPath, NoiseSchedule, sample_lcm
from sd2_family.samplers.uni_pc import sample_uni_pc
from tiny import write_checkpoint

SCHEDULE = NoiseSchedule()


@pytest.mark.parametrize("steps", [1, 2, 7, 30])
@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) & set(OURS)))
def test_noise_levels_are_ours_in_float32(name, steps):
    levels = SCHEDULERS[name](SCHEDULE, steps)
    assert levels.dtype == torch.float32
    assert torch.allclose(levels.double(), OURS[name](SCHEDULE, steps), rtol=2e-6, atol=0)


def test_kl_optimal_spaces_the_angles_evenly():
    angles = SCHEDULERS["kl_optimal"](SCHEDULE, 6)[:-1].double().atan()
    assert torch.allclose(angles.diff(), angles.diff()[:1].expand(5), rtol=1e-4)
    assert float(angles[0]) == pytest.approx(math.atan(SCHEDULE.sigma_max))
    assert SCHEDULERS["kl_optimal"](SCHEDULE, 1).isfinite().all()


def test_linear_quadratic_is_smooth_and_ends_at_zero():
    levels = SCHEDULERS["linear_quadratic"](SCHEDULE, 40).double() / SCHEDULE.sigma_max
    steps = -levels.diff()
    assert torch.allclose(steps[:20], torch.full((20,), 0.025 / 20, dtype=torch.float64), atol=1e-6)
    second = steps[20:].diff()  # a parabola: its slope rises evenly
    assert torch.allclose(second, second[:1].expand(19), atol=1e-6)
    assert float(levels[-1]) == 0
    assert SCHEDULERS["linear_quadratic"](SCHEDULE, 1).tolist() == pytest.approx([SCHEDULE.sigma_max, 0])


# Noise


def test_brownian_path_is_that_of_torchsde():
    """BrownianTree of torchsde 0.2.6 from 0.03 to 14.6 with entropy 7, as ComfyUI normalizes it."""
    path = BrownianPath(torch.zeros(3), 0.03, 14.6, 7)
    assert path(14.6, 5.0).tolist() == pytest.approx([1.950069, -1.306824, 0.779323], abs=1e-5)


def test_brownian_path_adds_up_and_is_normal():
    path = BrownianPath(torch.zeros(64, 64), 0.03, 14.6, 3)
    whole, first, second = path(9.0, 1.0), path(9.0, 4.0), path(4.0, 1.0)
    assert torch.allclose(math.sqrt(8) * whole, math.sqrt(5) * first + math.sqrt(3) * second, atol=1e-5)
    for noise in (whole, first, second):
        assert float(noise.mean()) == pytest.approx(0, abs=0.05)
        assert float(noise.std()) == pytest.approx(1, abs=0.05)
    assert abs(float((first * second).mean())) < 0.05
    beyond = path(20.0, 0.001) * math.sqrt(20.0 - 0.001)  # levels outside count as the nearest end
    assert torch.allclose(math.sqrt(14.6 - 0.03) * path(14.6, 0.03), beyond, atol=1e-5)


def test_brownian_middle_is_the_geometric_mean():
    path = BrownianPath(torch.zeros(1), 0.03, 14.6, 0)
    assert path.middle(9.0, 4.0) == pytest.approx(6.0, rel=1e-6)


def test_lcm_goes_to_x0_and_noises_it():
    def denoise(x, sigma):
        return 0.5 * x

    noise = iter([torch.tensor([1.0]), torch.tensor([-1.0])])
    result = sample_lcm(denoise, torch.tensor([8.0]), torch.tensor([4.0, 2.0, 1.0, 0.0]), noise=lambda: next(noise))
    assert float(result) == 0.5 * (0.5 * (0.5 * 8 + 2 * 1) - 1 * 1)


def test_both_forms_of_uni_pc_converge_to_the_exact_solution():
    """x0 of N(0, 1) data is x / (1 + sigma^2); the flow keeps x / sqrt(1 + sigma^2)."""
    gaps = {}
    for linear in (True, False):
        for steps in (8, 32):
            sigmas = torch.logspace(1, -2, steps + 1, dtype=torch.float64)
            x = sample_uni_pc(
                lambda x, sigma: x / (1 + sigma**2),
                torch.ones(1, dtype=torch.float64),
                sigmas,
                noise=lambda: pytest.fail("no noise"),
                linear=linear,
            )
            exact = math.sqrt((1 + 1e-4) / 101)
            gaps[linear, steps] = abs(float(x) - exact)
    assert gaps[True, 8] != gaps[False, 8]
    for linear in (True, False):
        assert gaps[linear, 32] < gaps[linear, 8] / 16  # at least second order


# Steps


def sampled(file, latent, sides=None, node="KSampler", **values):
    widgets = {"seed": 3, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    if node == "KSamplerAdvanced":
        del widgets["denoise"]
        widgets["noise_seed"] = widgets.pop("seed")
        widgets |= {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10000}
        widgets |= {"return_with_leftover_noise": "disable"}
    positive, negative = sides or prompts(file)
    links = {"model": file.model, "positive": positive, "negative": negative, "latent_image": latent}
    return STOCK[node]().sample(**links, **widgets | values)[0]["samples"]


@pytest.mark.parametrize("name", CORE_SAMPLERS)
def test_every_sampler_runs_and_repeats_itself(load, name):
    file = load("v2-base")
    first, again = (sampled(file, empty(), sampler_name=name) for _ in range(2))
    assert first.isfinite().all()
    assert torch.equal(first, again)
    assert not torch.equal(first, sampled(file, empty(), sampler_name=name, seed=4))
    assert sampled(file, empty(), sampler_name=name, steps=1).isfinite().all()


@pytest.mark.parametrize("name", ["euler", "heun", "lcm"])
def test_two_advanced_runs_continue_each_other(load, name):
    """Samplers without a memory: steps 0 to 2 and 2 to 4 give the whole run, where their noise starts anew."""
    file = load("v2-v")
    whole = sampled(file, empty(), node="KSamplerAdvanced", sampler_name=name)
    assert torch.equal(whole, sampled(file, empty(), sampler_name=name))
    values = {"node": "KSamplerAdvanced", "sampler_name": name}
    half = sampled(file, empty(), **values, end_at_step=2, return_with_leftover_noise="enable")
    rest = sampled(file, {"samples": half}, **values, add_noise="disable", start_at_step=2)
    if name == "lcm":
        assert not torch.allclose(rest, whole, atol=1e-2)
    else:
        assert torch.allclose(rest, whole, rtol=1e-4, atol=1e-3)


def test_advanced_ends_at_zero_or_leaves_the_noise(load):
    file = load("v2-v")
    values = {"node": "KSamplerAdvanced", "end_at_step": 2}
    full, left = (
        sampled(file, empty(), **values, return_with_leftover_noise=leftover) for leftover in ("disable", "enable")
    )
    sigmas = core_sampler.noise_levels(
        file.model, Sampling(seed=3, steps=4, cfg=2.0, sampler_name="euler", scheduler="karras")
    )
    assert float(left.std()) > float(sigmas[2])  # the noise alone has sigma / 0.18215
    assert not torch.allclose(full, left, atol=0.1)


def test_no_steps_leave_the_latent(load):
    file = load("v2-base")
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    for values in ({"start_at_step": 4}, {"end_at_step": 0}, {"start_at_step": 3, "end_at_step": 3}):
        assert torch.equal(sampled(file, latent, node="KSamplerAdvanced", **values), latent["samples"])
    assert torch.equal(sampled(file, latent, denoise=0.0), latent["samples"])


def test_uni_pc_leaves_the_penultimate_level_out(load):
    sampling = Sampling(seed=0, steps=5, cfg=1.0, sampler_name="uni_pc", scheduler="normal")
    levels = core_sampler.noise_levels(load("v2-base").model, sampling)
    expected = SCHEDULERS["normal"](SCHEDULE, 6)
    assert torch.equal(levels, expected[[0, 1, 2, 3, 4, 6]])


def test_ancestral_noise_begins_as_the_start_does_on_a_cpu(load):
    """ComfyUI 0.3.64 seeds both alike; its newer versions add 1 on a CPU."""
    noise = core_sampler._step_noise(torch.zeros(1, 4, 8, 8), 5)
    expected = torch.randn(2, 1, 4, 8, 8, generator=torch.manual_seed(5))
    assert torch.equal(torch.stack([noise(), noise()]), expected)


# What is lacking


def test_all_of_comfyuis_names_are_listed_and_the_lacking_ones_explained():
    declared = STOCK["KSampler"].INPUT_TYPES()["required"]
    assert set(declared["sampler_name"][0]) == {*CORE_SAMPLERS, *SAMPLER_INSTEAD}
    assert set(declared["scheduler"][0]) == {*SCHEDULERS, *SCHEDULER_INSTEAD}
    assert set(SAMPLER_INSTEAD.values()) <= set(CORE_SAMPLERS)
    assert set(SCHEDULER_INSTEAD.values()) <= set(SCHEDULERS)


@pytest.mark.parametrize("node", ["KSampler", "KSamplerAdvanced"])
def test_a_lacking_name_is_refused_before_the_run(node):
    inputs = {
        name: value[1]["default"]
        for name, value in STOCK[node].INPUT_TYPES()["required"].items()
        if len(value) > 1 and "default" in value[1]
    }
    names = {"sampler_name": "dpm_adaptive", "scheduler": "karras"}
    workflow = Workflow(prompt={"1": {"class_type": node, "inputs": {**inputs, **names}}})
    with pytest.raises(WorkflowError) as error:
        check(workflow, LIBRARY)
    assert "model (MODEL) is missing" in str(error.value)
    validate = STOCK[node].VALIDATE_INPUTS
    with pytest.raises(ValueError, match=r"'dpm_adaptive', which needs ComfyUI; choose dpmpp_2m.*--comfyui or"):
        validate("dpm_adaptive", "karras")
    with pytest.raises(ValueError, match="scheduler is 'beta', which needs ComfyUI; choose sgm_uniform"):
        validate("euler", "beta")
    with pytest.raises(ValueError, match="sampler_name is 'eulr'; choose one of euler,"):
        validate("eulr", None)
    assert validate(None, None)


@pytest.mark.parametrize("zsnr", [False, True])
@pytest.mark.parametrize(("sampling", "prediction"), [("eps", "epsilon"), ("v_prediction", "v_prediction")])
def test_what_a_model_predicts_can_be_set(load, own_models, sampling, prediction, zsnr):
    file = load("v2-base")
    write_checkpoint(own_models() / "other.safetensors", "v2-base", prediction=prediction)
    other = loaded("other.safetensors")
    expected = replace(other.model, schedule=NoiseSchedule(zero_terminal_snr=zsnr))
    (set_to,) = STOCK["ModelSamplingDiscrete"]().patch(file.model, sampling, zsnr)
    sides = dict(zip(("positive", "negative"), prompts(file), strict=True))
    widgets = {"seed": 1, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    results = [
        STOCK["KSampler"]().sample(model=model, latent_image=empty(), **sides, **widgets)[0]["samples"]
        for model in (set_to, expected)
    ]
    assert torch.equal(*results)
    assert file.model.schedule == NoiseSchedule()


def test_latent_consistency_is_noise_at_the_distilled_timesteps(load):
    file, seen = load("v2-base"), []
    (model,) = STOCK["ModelSamplingDiscrete"]().patch(file.model, "lcm")
    forward = type(file.model.unet).forward

    def noted(unet, x, t, *rest):
        seen.append(int(t[0]))
        return forward(unet, x, t, *rest)

    sides = dict(zip(("positive", "negative"), prompts(file), strict=True))
    widgets = {"seed": 1, "steps": 5, "cfg": 1.5, "sampler_name": "lcm", "scheduler": "sgm_uniform", "denoise": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(file.model.unet), "forward", noted)
        STOCK["KSampler"]().sample(model=model, latent_image=empty(), **sides, **widgets)
    assert seen == [999, 799, 599, 419, 219]  # of 999, 803, 607, 411, 215 the nearest of 19, 39, ...


def test_a_prediction_that_needs_comfyui_is_refused_before_the_run():
    for sampling in ("x0", "img_to_img"):
        with pytest.raises(ValueError, match=rf"sampling is '{sampling}', which needs ComfyUI; choose eps, v_pred"):
            STOCK["ModelSamplingDiscrete"].VALIDATE_INPUTS(sampling)
    assert STOCK["ModelSamplingDiscrete"].VALIDATE_INPUTS(None)
