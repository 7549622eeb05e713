"""A checkpoint that does not fit the graph around it is named before anything runs, with the titles on the canvas."""

import os

import pytest
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.backends.queued import checking
from sd2_family.headless import graph
from sd2_family.headless.check import check
from sd2_family.headless.graph import WorkflowError
from sd2_family.headless.library import LIBRARY
from sd2_family.nodes import wiring
from shipped import OFFICIAL, WORKFLOWS, named

LOADER = NODE_CLASS_MAPPINGS["SD2CheckpointLoader"]
ALONE = {"1": {"class_type": "SD2CheckpointLoader", "inputs": {"ckpt_name": "file"}}}


@pytest.fixture
def problem(tiny_models, use_folders, tmp_path):
    """What the loader of a shipped workflow says to a checkpoint of another kind, after a change of the prompt."""
    (tmp_path / "checkpoints").mkdir()
    use_folders(models=tmp_path)

    def problem(name, kind, change=lambda prompt: None):
        file = tmp_path / "checkpoints" / f"{kind}.safetensors"
        if not file.exists():
            file.symlink_to(tiny_models.file(kind))
        (path,) = [path for path in WORKFLOWS if path.stem == name]
        prompt = graph.read(path, LIBRARY).prompt
        (loader,) = [node for node in prompt.values() if node["class_type"] == "SD2CheckpointLoader"]
        loader["inputs"]["ckpt_name"] = file.name
        change(prompt)
        with checking(prompt):
            return LOADER.VALIDATE_INPUTS(file.name)

    return problem


@pytest.mark.parametrize(
    ("workflow", "kind", "said"),
    [
        (
            "depth2img",
            "v2-inpaint",
            "v2-inpaint.safetensors has no depth estimator, which Estimate depth needs; choose",
        ),
        ("unclip_variations", "v2-base", "v2-base.safetensors has no image encoder, which Encode image needs; choose"),
        ("unclip_mix", "v2-v", "v2-v.safetensors has no image encoder, which Encode image 1 needs; choose"),
        (
            "upscale_x4",
            "v2-base",
            "but Picture to enlarge needs one of kind x4 (x4-upscaler-ema); choose one in Checkp",
        ),
        ("inpaint_v1", "v2-base", "but Encode for inpainting needs one of kind v1-inpaint (sd-v1-5-inpainting) or"),
        (
            "txt2img",
            "v2-depth",
            "but the positive prompt reaches Sampler without a depth map; put SD2 Depth Conditioni",
        ),
        ("img2img", "x4", "but the positive prompt reaches Sampler without an image to upscale; put SD2 Upscale Cond"),
    ],
)
def test_a_wrong_checkpoint_is_named_with_the_nodes_that_need_another(problem, workflow, kind, said):
    assert said in problem(workflow, kind)


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_the_right_checkpoint_passes(problem, path):
    assert problem(path.stem, OFFICIAL[path.stem].kind) is True


@pytest.mark.parametrize(("workflow", "kind"), [("txt2img", "v2-inpaint"), ("txt2img", "v1"), ("img2img", "unclip-h")])
def test_what_can_be_sampled_passes(problem, workflow, kind):
    assert problem(workflow, kind) is True


def test_a_model_is_followed_through_a_lora_and_no_further_than_it_is_known(problem):
    def through(class_type, name):
        def change(prompt):
            (loader,) = [key for key, node in prompt.items() if node["class_type"] == "SD2CheckpointLoader"]
            (sampler,) = [node for node in prompt.values() if node["class_type"] == "SD2KSampler"]
            prompt["lora"] = {"class_type": class_type, "inputs": {name: [loader, 0]}}
            sampler["inputs"]["model"] = ["lora", 0]

        return change

    assert "without a depth map" in problem("txt2img", "v2-depth", through("LoraLoaderModelOnly", "model"))
    assert problem("txt2img", "v2-depth", through("SomebodysNode", "anything")) is True


def test_a_prompt_from_an_unknown_node_may_have_what_is_needed(problem):
    def change(prompt):
        (sampler,) = [node for node in prompt.values() if node["class_type"] == "SD2KSampler"]
        for side in ("positive", "negative"):
            prompt[side] = {"class_type": "SomebodysNode", "inputs": {}}
            sampler["inputs"][side] = [side, 0]

    assert problem("txt2img", "v2-depth", change) is True


def test_comfyuis_sampler_leaves_out_a_mask_that_the_model_does_not_take(problem):
    def change(prompt):
        (sampler,) = [node for node in prompt.values() if node["class_type"] == "SD2KSampler"]
        sampler["class_type"] = "KSampler"

    assert problem("inpaint_v1", "v2-base", change) is True


def test_a_workflow_is_refused_before_it_runs(problem, tmp_path):
    problem("depth2img", "v2-inpaint")
    (path,) = [path for path in WORKFLOWS if path.stem == "depth2img"]
    workflow = graph.read(path, LIBRARY)
    (loader,) = [node for node in workflow.prompt.values() if node["class_type"] == "SD2CheckpointLoader"]
    loader["inputs"]["ckpt_name"] = "v2-inpaint.safetensors"
    with pytest.raises(WorkflowError, match=r'"Checkpoint": v2-inpaint.safetensors has no depth estimator, which Est'):
        check(workflow, LIBRARY)
    with checking({}):
        assert LOADER.VALIDATE_INPUTS("v2-inpaint.safetensors") is True  # of no prompt that is known


def test_a_prompt_of_any_shape_is_no_crash(problem, tmp_path):
    problem("txt2img", "v2-depth")
    for prompt in (
        {"1": None, "2": {}, "3": {"class_type": "KSampler", "inputs": []}},
        {"1": {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "model": ["1", 0], "negative": ["9", 7]}}},
        {
            **{"7": {"class_type": "SD2CheckpointLoader", "inputs": {"ckpt_name": "v2-depth.safetensors"}}},
            **{
                "8": {
                    "class_type": "KSampler",
                    "inputs": {"model": ["7", 0], "positive": ["8", 0], "negative": [[], 0]},
                }
            },
        },
    ):
        with checking(prompt):
            assert LOADER.VALIDATE_INPUTS("v2-depth.safetensors") is True


def test_a_file_is_inspected_once_until_it_is_replaced(tiny_models, tmp_path, monkeypatch):
    looked = []
    inspect = wiring.inspect
    monkeypatch.setattr(wiring, "inspect", lambda path: looked.append(path) or inspect(path))
    path = tmp_path / "a.safetensors"
    path.write_bytes(tiny_models.file("v2-base").read_bytes())
    for _ in range(2):
        assert wiring.checkpoint_problem(path, ALONE, "file") == ""
    assert len(looked) == 1
    os.utime(path, ns=(1, 1))
    assert wiring.checkpoint_problem(path, ALONE, "file") == ""
    assert len(looked) == 2


def test_a_file_of_another_family_is_named_and_a_pickle_that_cannot_be_mapped_is_left_for_later(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="contains no tensors"):
        wiring.checkpoint_problem(tmp_path / "other.safetensors", ALONE, "file")
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02}q\0.")
    assert wiring.checkpoint_problem(tmp_path / "old.ckpt", ALONE, "file") == ""
