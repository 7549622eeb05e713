"""The text towers against transformers' CLIPTextModel, open_clip itself and the official files' layouts."""

from dataclasses import replace

import pytest
import torch
from checkpoint_layouts import layout
from open_clip.transformer import TextTransformer
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.models.clip_text import CLIPText, OpenCLIPText
from sd2_family.models.hugging_face import text_weights
from sd2_family.models.specs import SPECS, TextSpec
from tiny import hugging_face_text, randomise
from transformers import CLIPTextConfig, CLIPTextModel

H = TextSpec(width=128, layers=4, heads=2)
L = TextSpec(tower="clip-l", width=128, layers=4, heads=2, pad_token=49407, penultimate=False)
TOKENS = torch.randint(0, 49406, (2, 77), generator=torch.Generator().manual_seed(0))


def tower(spec):
    return randomise((OpenCLIPText if spec.tower == "openclip-h" else CLIPText)(spec), seed=1)


def reference(spec, hidden_act):
    config = CLIPTextConfig(
        hidden_size=spec.width,
        intermediate_size=4 * spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        hidden_act=hidden_act,
    )
    return CLIPTextModel(config).eval()


def load_reference(model, state):
    """transformers moved the weights out of `text_model.` in version 5."""
    nested = any(key.startswith("text_model.") for key in model.state_dict())
    state = {key if nested else key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    model.load_state_dict(state, strict=True)
    return model


# two float32 implementations of attention differ by rounding: 2e-6 on values near 1
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def test_openclip_reads_the_penultimate_layer():
    ours = tower(H)
    unused = ("model.text_projection", "model.logit_scale")
    state = hugging_face_text({key: tensor for key, tensor in ours.state_dict().items() if key not in unused})
    theirs = load_reference(reference(H, "gelu"), state)
    with torch.no_grad():
        hidden = theirs(TOKENS, output_hidden_states=True).hidden_states[-2]
        norm = theirs.text_model.final_layer_norm if hasattr(theirs, "text_model") else theirs.final_layer_norm
        torch.testing.assert_close(ours(TOKENS), norm(hidden), **CLOSE)


def test_openclip_agrees_with_open_clips_own_forward():
    ours = tower(H)
    theirs = TextTransformer(width=128, heads=2, layers=4, output_dim=128).eval()
    theirs.load_state_dict({k.removeprefix("model."): v for k, v in ours.state_dict().items() if "logit" not in k})
    with torch.no_grad():
        output = theirs.forward_intermediates(
            TOKENS, indices=[2], normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
    torch.testing.assert_close(ours(TOKENS), output["text_intermediates"][0], **CLOSE)


def test_clip_l_reads_the_last_layer_from_hugging_face_names():
    theirs = randomise(reference(L, "quick_gelu"), seed=2)
    state = {"transformer.text_model." + k.removeprefix("text_model."): v for k, v in theirs.state_dict().items()}
    state["transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    ours = CLIPText(L)
    ours.load_state_dict(text_weights(state), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).last_hidden_state, **CLOSE)


def test_a_token_sees_only_those_before_it():
    ours, changed = tower(H), TOKENS.clone()
    changed[:, 40] = 7
    before, after = ours(TOKENS), ours(changed)
    torch.testing.assert_close(before[:, :40], after[:, :40])
    assert (before[:, 40:] - after[:, 40:]).abs().amax(-1).min() > 1e-4


def test_every_layer_that_is_read_trains():
    torch.manual_seed(0)
    ours = OpenCLIPText(H)
    ours(TOKENS).square().mean().backward()
    without = {name for name, parameter in ours.named_parameters() if parameter.grad is None}
    last = {name for name, _ in ours.named_parameters() if "resblocks.3." in name}
    assert without == last | {"model.text_projection", "model.logit_scale"}


@pytest.mark.parametrize("kind", SPECS)
def test_towers_have_the_tensors_of_the_official_file(kind):
    spec, official = SPECS[kind].text, layout(kind, "cond_stage_model.")
    with torch.device("meta"):
        ours = (OpenCLIPText if spec.tower == "openclip-h" else CLIPText)(spec)
        state = {name: torch.empty(shape) for name, shape in official.items()}
    if spec.tower == "clip-l":
        state = text_weights(state)
    assert {name: t.shape for name, t in ours.state_dict().items()} == {name: t.shape for name, t in state.items()}
    assert not list(ours.buffers())  # a non-persistent buffer would stay on meta


@pytest.mark.parametrize("spec", [H, L], ids=["2.x", "1.x"])
@pytest.mark.parametrize(("stop", "hidden"), [(-1, -1), (-2, -2), (-4, -4), (-5, -1), (-24, -1)])
def test_any_layer_can_be_read(spec, stop, hidden):
    """The last where there are not as many, as in ComfyUI; hidden_states[0] are the embeddings."""
    ours = tower(spec)
    unused = ("model.text_projection", "model.logit_scale")
    state = hugging_face_text({key: tensor for key, tensor in ours.state_dict().items() if key not in unused})
    theirs = load_reference(reference(spec, "gelu" if spec is H else "quick_gelu"), state)
    with torch.no_grad():
        states = theirs(TOKENS, output_hidden_states=True).hidden_states
        norm = theirs.text_model.final_layer_norm if hasattr(theirs, "text_model") else theirs.final_layer_norm
        torch.testing.assert_close(ours(TOKENS, stop), norm(states[hidden]), **CLOSE)


@pytest.mark.parametrize(("stop", "same_as"), [(None, -2), (-1, -2), (-3, -3)])
def test_layers_are_counted_alike_where_a_file_lacks_the_last(stop, same_as):
    whole = tower(H)
    cut = OpenCLIPText(replace(H, layers=3, penultimate=False))
    cut.load_state_dict({k: t for k, t in whole.state_dict().items() if "resblocks.3." not in k})
    torch.testing.assert_close(cut(TOKENS, stop), whole(TOKENS, same_as), **CLOSE)


def test_clip_set_last_layer(load, caplog):
    node, file = STOCK["CLIPSetLastLayer"](), load("v1")
    tokens = file.clip.tokenize("a cat")
    encoded = [node.set_last_layer(file.clip, stop)[0].encode_from_tokens_scheduled(tokens)[0][0] for stop in (-1, -2)]
    own = file.clip.encode_from_tokens_scheduled(tokens)[0][0]
    assert torch.equal(encoded[0], own)
    assert (encoded[1] - own).abs().max() > 0.1
    assert not caplog.records
    node.set_last_layer(file.clip, -12)
    assert caplog.messages == [
        "stop_at_clip_layer is -12, but the text encoder has 3 layers; its last layer is read",
    ]
