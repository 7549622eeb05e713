"""How the demo checkpoint is trained: resumable, deterministic, and a resumed model starts as what it resumes."""

import numpy as np
import pytest
import torch
from sd2_family.pipeline import lama_masks
from sd2_family.pipeline.components import VAE
from sd2_family.samplers.schedule import NoiseSchedule
from sd2_family.training import export, networks, objectives, random_masks, trainer, unpack, warm_start
from sd2_family.training.latent_cache import tokens_of
from sd2_family.training.muon import MOMENTUM, Muon, orthogonalize
from torch import nn
from torch.nn import functional as F

PLAN = trainer.Plan(steps=6, batch_size=4, learning_rate=1e-2)


def a_loss(model, choices, noise):
    x = torch.from_numpy(choices.standard_normal((PLAN.batch_size, 16))).float()
    return F.mse_loss(model(x), torch.randn(PLAN.batch_size, 16, generator=noise))


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))


def test_a_stopped_run_takes_the_same_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY", 2)
    whole = trainer.train(a_model(), a_loss, PLAN, tmp_path / "whole.pt")

    class Stopped(Exception):
        pass

    def stops(model, choices, noise):
        if stops.left == 0:
            raise Stopped
        stops.left -= 1
        return a_loss(model, choices, noise)

    stops.left = 5  # one step is lost: the state on disk is that of step 4
    with pytest.raises(Stopped):
        trainer.train(a_model(), stops, PLAN, tmp_path / "parts.pt")
    resumed = trainer.train(a_model(), a_loss, PLAN, tmp_path / "parts.pt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (24, 24)])
def test_muon_steps_along_the_polar_factor(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    step = orthogonalize(matrix)
    inside = u.T @ step @ vh.T
    values = inside.diagonal()[s > 0.05 * s[0]]
    assert values.min() > 0.6  # the quintic ends within about 0.7..1.2 (Jordan et al.)
    assert values.max() < 1.3
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-3  # the same singular vectors


def test_muon_steps_as_timms_does():
    timms = pytest.importorskip("timm.optim.muon").Muon  # not in every timm 1.x
    torch.manual_seed(1)
    start = torch.randn(24, 16, 3, 3)  # a convolution
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"momentum": MOMENTUM, "nesterov": True, "ns_coefficients": "original"}
    pairs = [(ours, Muon([ours], 0.01)), (theirs, timms([theirs], 0.01, **settings))]
    for _ in range(3):
        gradient = torch.randn_like(start)
        for parameter, optimizer in pairs:
            parameter.grad = gradient.clone()
            optimizer.step()
    states = [next(iter(optimizer.state_dict()["state"].values())) for _, optimizer in pairs]
    assert torch.equal(states[0]["momentum"], states[1]["momentum_buffer"])
    # timm orthogonalizes in bfloat16: measured on the demo's matrices, a step differs by up to 15 % of its length
    assert (ours - theirs).norm() < 0.15 * (ours - start).norm()


def a_trained_model(in_channels):
    """Its zero layers as training leaves them: not zero."""
    torch.manual_seed(2)
    model = networks.TextToImage(in_channels).eval()
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def test_five_more_channels_change_nothing_at_first():
    base, inpaint = a_trained_model(4), networks.TextToImage(9).eval()
    warm_start.resume(inpaint, base.state_dict(), torch.ones(5))
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([3, 500])
    tokens = torch.stack([tokens_of("a red house"), tokens_of("")])
    with torch.no_grad():
        before = base(x, t, tokens)
        after = inpaint(torch.cat([x, torch.randn(2, 5, 16, 16)], dim=1), t, tokens)
    assert torch.allclose(before, after, atol=1e-5)  # values near 1, added up in another order
    assert before.abs().max() > 0.01


def test_an_inpainting_network_that_sees_nothing_becomes_a_text_to_image_network():
    inpaint, text = a_trained_model(9), networks.TextToImage(4).eval()
    hidden = torch.tensor([1.0, 0.3, -0.2, 0.5, 0.1])
    warm_start.resume(text, inpaint.state_dict(), hidden)
    x = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        h = inpaint.unet.input_blocks[0][0](torch.cat([x, hidden.view(1, 5, 1, 1).expand(1, 5, 16, 16)], dim=1))
        folded = text.unet.input_blocks[0][0](x)
    inside = (..., slice(1, -1), slice(1, -1))  # at the border the convolution sees zeros instead
    assert torch.allclose(h[inside], folded[inside], atol=1e-5)


def test_inputs_are_not_lost_silently():
    with pytest.raises(ValueError, match="9 input channels"):
        warm_start.resume(networks.TextToImage(5), a_trained_model(9).state_dict())


def test_training_goes_on_from_an_exported_checkpoint(tmp_path):
    autoencoder, model = networks.AutoencoderKL(networks.AUTOENCODER), a_trained_model(9)
    vae = VAE(autoencoder, networks.AUTOENCODER)
    found = unpack.unpacked(export.checkpoint(model.state_dict(), vae))
    for state, network in (("autoencoder", autoencoder), ("start", model)):
        assert found[state].keys() == network.state_dict().keys()
        for name, weight in network.state_dict().items():
            assert torch.allclose(found[state][name], weight, rtol=1e-3, atol=1e-7)  # float16


def test_a_phase_goes_on_from_the_base_or_from_what_was_unpacked(tmp_path):
    def found():
        states = (warm_start.predecessor(name, tmp_path) for name in ("base", "inpaint", "v", "depth"))
        return [state and state.name for state in states]

    assert found()[0] is None
    (tmp_path / "start.pt").touch()
    assert found() == ["start.pt"] * 4
    (tmp_path / "base.pt").touch()
    assert found() == ["start.pt", "start.pt", "base.pt", "base.pt"]


def test_timesteps_follow_the_log_normal():
    t = objectives.random_timesteps(np.random.default_rng(0), 20_000)
    logs = NoiseSchedule().sigmas.float().log()[t]
    mean, deviation = objectives.LOG_SIGMA
    assert t.min() >= 0
    assert t.max() <= 999
    assert abs(logs.median().item() - mean) < 0.05  # 20,000 draws: the median's error is about 0.01
    between = (logs > mean - deviation) & (logs < mean + deviation)
    assert abs(between.float().mean().item() - 0.683) < 0.02


def test_masks_are_binary_and_cover_their_object():
    covered = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        mask = random_masks.random_mask(rng, 128, [(40, 50, 80, 90)])
        assert mask.shape == (128, 128)
        assert set(np.unique(mask)) == {0.0, 1.0}
        around = lama_masks.binary(random_masks.around_object(rng, 128, (40, 50, 80, 90)))
        covered.append(around[52:88, 42:78].mean())
    assert min(covered) > 0.9  # a scribble may leave a corner


def test_what_a_mask_hides():
    mask = np.zeros((128, 128))
    mask[:, :64] = 1
    assert random_masks.hidden_fraction(mask, [(80, 0, 100, 20)]) == 0
    assert random_masks.hidden_fraction(mask, [(80, 0, 100, 20), (54, 30, 74, 50)]) == 0.5
    assert random_masks.hidden_fraction(mask, [(54, 30, 74, 50), (10, 10, 30, 40)]) == 1
