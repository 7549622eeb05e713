"""Merges of models and text encoders: sums of weights, without a change of those that were loaded."""

import pytest
import torch
from helpers import empty, loaded, prompts, sample
from lora_files import LDM_STYLES, random_lora, write_lora
from safetensors.torch import save_file
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.pipeline.components import NoTextEncoder
from tiny import tiny_state

STEM = "input_blocks.0.0.weight"
CLOSE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture
def models(tiny_models, load):
    """models(kind, ...): checkpoints, each with its own random weights."""

    def models(*kinds):
        for number, kind in enumerate(kinds):
            tiny_models.file(kind, f"{kind}-{number}", seed=20 * number)
        return [load(f"{kind}-{number}") for number, kind in enumerate(kinds)]

    return models


def merge(node, *pair, **widgets):
    names = ("clip1", "clip2") if node.startswith("CLIP") else ("model1", "model2")
    return STOCK[node]().merge(**dict(zip(names, pair, strict=True)), **widgets)[0]


def weights(model):
    return {key: tensor.clone() for key, tensor in model.changed_unet.state_dict().items()}


def summed(a, b, first, second):
    return {key: first * a[key] + second * b[key] for key in a}


def test_ratio_is_the_first_models_share(models):
    a, b = (file.model for file in models("v2-base", "v2-base"))
    before = weights(a), weights(b)
    for ratio in (0.0, 0.3, 1.0):
        found = weights(merge("ModelMergeSimple", a, b, ratio=ratio))
        torch.testing.assert_close(found, summed(*before, ratio, 1 - ratio), **CLOSE)
    torch.testing.assert_close((weights(a), weights(b)), before, rtol=0, atol=0)


def test_sums_and_differences(models):
    a, b = (file.model for file in models("v1", "v1"))
    before = weights(a), weights(b)
    torch.testing.assert_close(weights(merge("ModelMergeAdd", a, b)), summed(*before, 1, 1), **CLOSE)
    difference = merge("ModelMergeSubtract", a, b, multiplier=0.7)
    torch.testing.assert_close(weights(difference), summed(*before, 0.7, -0.7), **CLOSE)
    torch.testing.assert_close(weights(merge("ModelMergeAdd", b, difference)), summed(*before, 0.7, 0.3), **CLOSE)


def test_blocks_have_shares_of_their_own(models):
    a, b = (file.model for file in models("v2-base", "v2-base"))
    before = weights(a), weights(b)
    found = weights(merge("ModelMergeBlocks", a, b, input=0.2, middle=0.9, out=0.5))
    of_part = {"input_blocks": 0.2, "time_embed": 0.2, "middle_block": 0.9, "output_blocks": 0.5, "out": 0.5}
    for key, tensor in found.items():
        ratio = of_part[key.split(".")[0]]
        torch.testing.assert_close(tensor, ratio * before[0][key] + (1 - ratio) * before[1][key], **CLOSE, msg=key)


def test_the_changes_of_both_models_count(models, tmp_path):
    a, b = (file.model for file in models("v2-base", "v2-base"))
    key = "middle_block.1.transformer_blocks.0.attn2.to_q"
    shape = a.unet.state_dict()[f"{key}.weight"].shape
    tensors, differences = random_lora({key: shape}, LDM_STYLES["kohya"])
    path = str(write_lora(tmp_path / "a.safetensors", tensors))
    with_lora = STOCK["LoraLoaderModelOnly"]().load_lora_model_only

    def weight(model):
        return model.changed_unet.state_dict()[f"{key}.weight"]

    of_a, of_b, change = weight(a), weight(b), differences[key]
    (b_changed,) = with_lora(b, path, 0.5)
    merged = merge("ModelMergeSimple", a, b_changed, ratio=0.4)
    torch.testing.assert_close(weight(merged), 0.4 * of_a + 0.6 * (of_b + 0.5 * change), rtol=0, atol=1e-5)
    (after,) = with_lora(merged, path, 2.0)
    torch.testing.assert_close(weight(after), weight(merged) + 2 * change, rtol=0, atol=1e-5)
    (a_changed,) = with_lora(a, path, 1.0)
    twice = merge("ModelMergeSimple", a_changed, merged, ratio=0.5)
    torch.testing.assert_close(weight(twice), 0.5 * (of_a + change) + 0.5 * weight(merged), rtol=0, atol=1e-5)


def test_a_merge_samples_as_a_file_with_its_weights(models, tiny_models, load):
    files = models("v2-base", "v2-base")
    merged = merge("ModelMergeSimple", files[0].model, files[1].model, ratio=0.4)
    text = merge("CLIPMergeSimple", files[0].clip, files[1].clip, ratio=0.7)
    states = [tiny_state("v2-base", seed=20 * number) for number in range(2)]
    shares = {"model": 0.4, "cond_stage_model": 0.7}
    state = {
        key: tensor.lerp(states[1][key], 1 - shares[key.split(".")[0]]) if key.split(".")[0] in shares else tensor
        for key, tensor in states[0].items()
    }
    save_file(state, tiny_models.checkpoints / "by-hand.safetensors")
    by_hand = loaded("by-hand.safetensors", "epsilon")
    here = type(by_hand)(**{**vars(by_hand), "model": merged, "clip": text})
    results = [sample(file, *prompts(file), empty())["samples"] for file in (here, by_hand, files[0])]
    deviation = float(results[1].std())
    assert float((results[0] - results[1]).abs().max()) / deviation < 1e-4
    assert float((results[0] - results[2]).abs().max()) / deviation > 0.1


def test_text_encoders_merge_and_keep_what_they_are_set_to(models):
    a, b = (file.clip for file in models("v1", "v1"))
    before = [{key: t.clone() for key, t in clip.tower.state_dict().items()} for clip in (a, b)]
    for node, widgets, shares in (
        ("CLIPMergeSimple", {"ratio": 0.3}, (0.3, 0.7)),
        ("CLIPMergeAdd", {}, (1, 1)),
        ("CLIPMergeSubtract", {"multiplier": -0.5}, (-0.5, 0.5)),
    ):
        merged = merge(node, a.with_stop(-2), b, **widgets)
        assert merged.stop == -2
        found = {key: merged.changed_tower.state_dict()[key] for key in before[0]}
        torch.testing.assert_close(found, summed(*before, *shares), **CLOSE)
    assert torch.equal(a.tower.state_dict()["model.positional_embedding"], before[0]["model.positional_embedding"])


def test_an_inpainting_model_keeps_its_first_layer_and_a_warning_says_so(models, caplog):
    a, b = (file.model for file in models("v2-inpaint", "v2-base"))
    before = weights(a), weights(b)
    found = weights(merge("ModelMergeSimple", a, b, ratio=0.25))
    assert torch.equal(found[STEM], before[0][STEM])
    expected = {key: 0.25 * tensor + 0.75 * before[1][key] for key, tensor in before[0].items() if key != STEM}
    torch.testing.assert_close({key: found[key] for key in expected}, expected, **CLOSE)
    assert "the first layer of v2-base-1.safetensors is left out of the merge" in caplog.text


def test_other_sizes_and_a_missing_text_encoder_are_refused(models):
    a, b = models("v1", "v2-base")
    with pytest.raises(ValueError, match=r"v2-base-1\.safetensors cannot be merged into v1-0\.safetensors: .* is \["):
        merge("ModelMergeSimple", a.model, b.model, ratio=0.5)
    for pair in ((a.clip, NoTextEncoder("unet.safetensors")), (NoTextEncoder("unet.safetensors"), a.clip)):
        with pytest.raises(ValueError, match=r"unet\.safetensors has no text encoder"):
            merge("CLIPMergeAdd", *pair)
