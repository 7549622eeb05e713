"""The autoencoder against diffusers' on the same random weights, through diffusers' own key conversion."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL as Reference
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from sd2_family.models.autoencoder import AutoencoderKL
from sd2_family.models.specs import AutoencoderSpec

TOLERANCE = 1e-4  # float32 through some forty convolutions


def pair(spec: AutoencoderSpec) -> tuple[AutoencoderKL, Reference]:
    torch.manual_seed(0)
    ours = AutoencoderKL(spec).eval()
    for parameter in ours.parameters():  # norms too: their initial 1 and 0 would hide a swap
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    widths = [spec.channels * m for m in spec.channel_mult]
    reference = Reference(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        layers_per_block=spec.num_res_blocks,
        latent_channels=spec.latent_channels,
        norm_num_groups=32 if spec.group_size is None else spec.channels // spec.group_size,
    ).eval()
    keys = {f"first_stage_model.{key}": value for key, value in ours.state_dict().items()}
    reference.load_state_dict(convert_ldm_vae_checkpoint(keys, reference.config))
    return ours, reference


@pytest.mark.parametrize(
    ("spec", "factor"),
    [
        (AutoencoderSpec(channels=128, channel_mult=(1, 2), num_res_blocks=1), 2),
        (
            AutoencoderSpec(channels=32, channel_mult=(1, 1, 2, 2)),
            8,
        ),  # f8, narrow: groups of 1 and 2 channels
        (AutoencoderSpec(channels=32, channel_mult=(1, 2, 4)), 4),  # f4
        (AutoencoderSpec(channels=32, channel_mult=(1, 1, 1, 1), group_size=4), 8),  # the demo's: 8 groups
    ],
)
@torch.inference_mode()
def test_encode_and_decode_equal_diffusers(spec, factor):
    ours, reference = pair(spec)
    x = torch.randn(2, 3, 32, 24, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    expected = reference.encode(x).latent_dist
    mean, logvar = ours.moments(x)
    assert mean.shape == (2, 4, 32 // factor, 24 // factor)
    assert spec.factor == factor
    torch.testing.assert_close(ours.encode(x), expected.mode(), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logvar, expected.logvar, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours.decode(mean), reference.decode(mean).sample, atol=TOLERANCE, rtol=0)
