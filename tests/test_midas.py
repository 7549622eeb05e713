"""The depth estimator against transformers' DPT hybrid with the same weights, and the size it is shown pictures at."""

import pytest
import torch
from sd2_family.models.midas import network_size
from tiny import tiny_depth
from transformers import DPTConfig, DPTForDepthEstimation

BACKBONE = "dpt.embeddings.backbone.bit."
TO_TRANSFORMERS = (
    ("pretrained.model.patch_embed.backbone.stem.conv.", BACKBONE + "embedder.convolution."),
    ("pretrained.model.patch_embed.backbone.stem.", BACKBONE + "embedder."),
    ("pretrained.model.patch_embed.backbone.", BACKBONE + "encoder."),
    ("pretrained.model.patch_embed.proj.", "dpt.embeddings.projection."),
    ("pretrained.model.pos_embed", "dpt.embeddings.position_embeddings"),
    ("pretrained.model.cls_token", "dpt.embeddings.cls_token"),
    ("pretrained.model.norm.", "dpt.layernorm."),
    ("pretrained.model.blocks.", "dpt.encoder.layer."),
    ("scratch.output_conv.", "head.head."),
    *((f"scratch.layer{n}_rn.", f"neck.convs.{n - 1}.") for n in (1, 2, 3, 4)),
    *((f"scratch.refinenet{n}.", f"neck.fusion_stage.layers.{4 - n}.") for n in (1, 2, 3, 4)),
    *(
        (f"pretrained.act_postprocess{n}.0.project.", f"neck.reassemble_stage.readout_projects.{n - 1}.")
        for n in (3, 4)
    ),
    *((f"pretrained.act_postprocess{n}.3.", f"neck.reassemble_stage.layers.{n - 1}.projection.") for n in (3, 4)),
    ("pretrained.act_postprocess4.4.", "neck.reassemble_stage.layers.3.resize."),
)
INSIDE = {
    BACKBONE: ((".blocks.", ".layers."),),
    "dpt.encoder.": (
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".attn.proj.", ".attention.output.dense."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    ),
    "neck.fusion_stage.": (
        (".out_conv.", ".projection."),
        (".resConfUnit", ".residual_layer"),
        (".conv", ".convolution"),
    ),
}


def in_transformers(network):
    """Our weights in transformers' DPT."""
    spec = network.spec
    model = DPTForDepthEstimation(
        DPTConfig(
            is_hybrid=True,
            hidden_size=spec.width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            intermediate_size=4 * spec.width,
            layer_norm_eps=1e-6,
            image_size=spec.side,
            backbone_out_indices=[0, 1, 2, 3],  # of our four layers the last two
            backbone_featmap_shape=[1, spec.channels[-1], spec.grid, spec.grid],
            reassemble_factors=[1, 1, 1, 0.5],
            neck_hidden_sizes=[*spec.channels[:2], spec.width, spec.width],
            fusion_hidden_size=spec.features,
            backbone_config={
                "model_type": "bit",
                "global_padding": "same",
                "layer_type": "bottleneck",
                "embedding_dynamic_padding": True,
                "embedding_size": spec.stem,
                "hidden_sizes": list(spec.channels),
                "depths": list(spec.depths),
                "out_features": ["stage1", "stage2", "stage3"],
            },
        )
    )
    state = {}
    for key, tensor in network.state_dict().items():
        for old, new in TO_TRANSFORMERS:
            if key.startswith(old):
                key = key.replace(old, new)
        for part, names in INSIDE.items():
            for old, new in names if key.startswith(part) else ():
                key = key.replace(old, new)
        if ".attn.qkv." in key:
            for name, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[key.replace(".attn.qkv.", f".attention.attention.{name}.")] = piece
        elif ".model.head." not in key:  # the classifier, which transformers leaves out
            state[key] = tensor
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (64, 96), (128, 32)])
def test_same_depth_as_transformers(size):
    network = tiny_depth()
    model = in_transformers(network)
    model.dpt.embeddings.image_size = size  # it takes one size, and thinks that a square, but has the code for others
    neck = model.neck.forward
    model.neck.forward = lambda maps, *_: neck(maps, size[0] // 16, size[1] // 16)
    picture = 2 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        ours, theirs = network(picture), model(picture).predicted_depth
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((512, 512), (384, 384)),
        ((768, 512), (576, 384)),  # the nearer of the scales 0.5 and 0.75
        ((1080, 1920), (384, 672)),  # 682.7 is 21.3 times 32
        ((300, 200), (384, 256)),  # 1.28 is nearer to 1 than 1.92
        ((100, 400), (96, 384)),
        ((16, 3000), (32, 384)),  # at least one
    ],
)
def test_size_of_the_picture_shown(size, shown):
    """By hand from the authors' rule: scale as little as possible to 384, then the nearest multiples of 32."""
    assert network_size(*size, 384) == shown
    assert network_size(*size[::-1], 384) == shown[::-1]


def test_any_picture_is_brought_to_that_size():
    network = tiny_depth()
    picture = torch.rand(1, 3, 100, 64) * 2 - 1
    assert network.estimate(picture).shape == (1, 96, 64)
    fitting = picture[:, :, :64]
    with torch.no_grad():
        assert torch.equal(network.estimate(fitting), network(fitting))
