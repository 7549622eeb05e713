"""Conversion, overrides, checks and execution of workflows, with small fake nodes."""

import copy
import json

import pytest
import torch
from fake_nodes import CALLS, LIBRARY, Picky, canvas, prompt
from sd2_family.headless import graph, overrides
from sd2_family.headless.check import check
from sd2_family.headless.execute import Executor, NodeError
from sd2_family.headless.image_files import save_png


@pytest.fixture(autouse=True)
def _forget_calls():
    CALLS.clear()
    Picky.version = 1


def run(data, executor=None):
    """Check and run parsed JSON; returns what each output node showed."""
    workflow = graph.from_json(data, LIBRARY)
    check(workflow, LIBRARY)
    return dict((executor or Executor(LIBRARY)).run(workflow))


def problems_of(data, *settings):
    workflow = graph.from_json(data, LIBRARY)
    for setting in settings:
        overrides.set_value(workflow, setting, LIBRARY)
    try:
        check(workflow, LIBRARY)
    except graph.WorkflowError as error:
        return error.problems
    return []


def ran(name):
    return [arguments for called, arguments in CALLS if called == name]


def change(data, node_id, **inputs):
    data[node_id]["inputs"] |= inputs
    return data


# Conversion


def test_canvas_becomes_the_prompt_comfyui_exports():
    assert graph.from_json(canvas(), LIBRARY).prompt == prompt()


def test_both_formats_give_the_same_calls():
    run(canvas())
    from_canvas = copy.deepcopy(CALLS)
    CALLS.clear()
    run(prompt())
    assert from_canvas[-1][1].pop("extra_pnginfo") == {"workflow": canvas()}
    assert CALLS[-1][1].pop("extra_pnginfo") is None
    assert from_canvas == CALLS
    assert ran("Show")[0]["value"] == 7 * 1.5 + 3 * 0.5 + 10


def test_api_prompt_passes_through_unchanged():
    data = prompt()
    assert graph.from_json(data, LIBRARY).prompt == prompt()
    check(graph.from_json(data, LIBRARY), LIBRARY)
    assert data == prompt()  # the caller's own copy stays as it was


@pytest.mark.parametrize("control", ["fixed", "randomize", "increment", "decrement"])
def test_seed_control_is_dropped(control):
    data = canvas()
    data["nodes"][0]["widgets_values"][1] = control
    assert graph.from_json(data, LIBRARY).prompt == prompt()


def test_link_objects_of_newer_canvases():
    data = canvas()
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    data["links"] = [dict(zip(keys, link, strict=True)) for link in data["links"]]
    assert graph.from_json(data, LIBRARY).prompt == prompt()


def test_widget_values_by_name():
    data = canvas()
    data["nodes"][2]["widgets_values"] = {"offset": 10, "last": 6, "videopreview": {}}
    assert graph.from_json(data, LIBRARY).prompt == prompt()


def test_a_linked_widget_still_takes_its_place_among_the_values():
    data = canvas()
    data["nodes"][2]["inputs"][3]["link"] = 9
    data["links"].append([9, 1, 0, 3, 3, "INT"])
    inputs = graph.from_json(data, LIBRARY).prompt["3"]["inputs"]
    assert inputs["offset"] == ["1", 0]
    assert inputs["last"] == 6


def test_a_reroute_that_is_fed_by_nothing_counts_as_unconnected():
    data = canvas()
    data["nodes"][3]["inputs"][0]["link"] = None
    assert problems_of(data) == ['node 3 "Add": b (NUMBER) is missing; connect it']


def test_canvas_of_a_loop_of_reroutes_ends():
    data = canvas()
    data["links"][1] = [2, 5, 0, 4, 0, "*"]
    assert "b (NUMBER) is missing" in problems_of(data)[0]


@pytest.mark.parametrize("data", [[], {}, 3, {"nodes": [], "version": 1}, {"1": {"inputs": {}}}, {"1": "KSampler"}])
def test_other_json_is_refused(data, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps(data))
    with pytest.raises(graph.WorkflowError, match=r"other\.json is not a ComfyUI workflow"):
        graph.read(tmp_path / "other.json", LIBRARY)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.json").write_text("hello")
    (tmp_path / "text.png").write_text("hello")
    save_png(tmp_path / "plain.png", torch.zeros(8, 8, 3), {})
    for name, words in (
        ("none.json", "does not exist"),
        ("text.json", "is not valid JSON"),
        ("plain.png", "contains no"),
    ):
        with pytest.raises(graph.WorkflowError, match=f"{name} {words}"):
            graph.read(tmp_path / name, LIBRARY)
    with pytest.raises(ValueError, match=r"text\.png is not a readable image"):
        graph.read(tmp_path / "text.png", LIBRARY)


def test_a_picture_gives_back_both_its_formats(tmp_path):
    ran = change(prompt(), "1", seed=9)  # what ran counts, where the canvas says otherwise
    text = {"prompt": json.dumps(ran), "workflow": json.dumps(canvas())}
    save_png(tmp_path / "a.png", torch.zeros(8, 8, 3), text)
    workflow = graph.read(tmp_path / "a.png", LIBRARY)
    assert workflow.prompt == ran
    assert workflow.ui == canvas()


# Overrides


def test_set_by_id_and_by_title_changes_prompt_and_canvas():
    data = canvas()
    workflow = graph.from_json(data, LIBRARY)
    for setting in ("1.seed=8", "Second.scale=0.25", "Second.word=a = b.c", "1.exact=no", "A Number.kind=small"):
        overrides.set_value(workflow, setting, LIBRARY)
    assert workflow.problems == []
    assert workflow.prompt["1"]["inputs"] == {
        "seed": 8, "scale": 1.5, "kind": "small", "exact": False, "word": "hello",
    }  # fmt: skip
    assert workflow.prompt["2"]["inputs"]["scale"] == 0.25
    assert workflow.prompt["2"]["inputs"]["word"] == "a = b.c"
    assert graph.from_json(workflow.ui, LIBRARY).prompt == workflow.prompt
    assert data == canvas()  # the caller's own copy stays as it was


def test_set_fills_a_canvas_that_saved_fewer_values():
    data = canvas()
    data["nodes"][1]["widgets_values"] = [3]
    workflow = graph.from_json(data, LIBRARY)
    overrides.set_value(workflow, "Second.exact=true", LIBRARY)
    assert workflow.ui["nodes"][1]["widgets_values"] == [3, None, None, True]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("seed=1", "write NODE.INPUT=VALUE"),
        ("1.seed", "write NODE.INPUT=VALUE"),
        ("9.seed=1", """no node '9'; the workflow has 1 "A Number", 2 "Second", 3 "Add", 6 "Show It\""""),
        ("Second.sed=1", """node 2 "Second" has no widget 'sed'; it has seed, scale, kind, exact, word"""),
        ("Show It.value=1", "it has none"),
        ("Second.seed=one", "seed is 'one'; enter a whole number"),
        ("Second.scale=big", "scale is 'big'; enter a number"),
        ("Second.exact=maybe", "exact is 'maybe'; enter true or false"),
    ],
)
def test_set_says_what_it_cannot_do(setting, said):
    (problem,) = problems_of(canvas(), setting)
    assert problem.startswith(f"--set {setting}: ")
    assert said in problem


def test_set_of_an_ambiguous_title_names_the_ids():
    data = canvas()
    data["nodes"][0]["title"] = "Second"
    assert problems_of(data, "Second.seed=1") == [
        "--set Second.seed=1: 'Second' is the title of nodes 1, 2; use one of these ids"
    ]


def test_set_of_a_linked_value_names_its_source():
    data = prompt()
    data["3"]["inputs"]["offset"] = ["1", 0]
    assert '--set 3.offset=1: offset of node 3 "Add" comes from node 1 "A Number"; set it there' in problems_of(
        data, "3.offset=1"
    )


def test_set_values_are_checked_like_saved_ones():
    assert problems_of(canvas(), "Second.seed=100", "1.kind=huge") == [
        "node 1 \"A Number\": kind is 'huge'; choose one of small, big",
        'node 2 "Second": seed is 100; enter a value from 0 to 99',
    ]


# Checks


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"seed": -1}, "seed is -1; enter a value from 0 to 99"),
        ({"seed": 1.5}, "seed is 1.5; enter a whole number"),
        ({"seed": "x"}, "seed is 'x'; enter a whole number"),
        ({"scale": 2.1}, "scale is 2.1; enter a value from 0.0 to 2.0"),
        ({"scale": float("nan")}, "scale is nan; enter a value from 0.0 to 2.0"),
        ({"kind": "huge"}, "kind is 'huge'; choose one of small, big"),
        ({"exact": "maybe"}, "exact is 'maybe'; enter true or false"),
        ({"seed": ["9", 0]}, "seed is linked to node 9, which is not in the workflow; connect it again"),
        ({"seed": ["2", 7]}, 'seed is linked to output 7 of node 2 "Second", which has 2 outputs; connect it again'),
        ({"seed": ["2"]}, "seed is ['2']; write a link as [node id, output number]"),
        ({"seed": ["2", 0]}, "seed takes INT, but is linked to NUMBER; connect INT instead"),
        ({"kind": ["2", 1]}, "kind takes COMBO, but is linked to STRING; connect COMBO instead"),
    ],
)
def test_each_wrong_input_is_named(inputs, said):
    assert problems_of(change(prompt(), "1", **inputs)) == [f'node 1 "A Number": {said}']


def test_everything_wrong_is_said_at_once():
    data = change(change(prompt(), "1", seed=-1, kind="huge"), "2", scale="wide")
    del data["3"]["inputs"]["a"]
    data["7"] = {"class_type": "Unknown", "inputs": {"a": ["8", 0]}}
    data["9"] = {"class_type": "Picky", "inputs": {"name": "b"}}
    del data["6"]  # without an output, every node counts
    said = problems_of(data, "nobody.seed=1")
    assert len(said) == 8
    assert "no node 'nobody'" in said[0]
    assert said[1:] == [
        'node 1 "A Number": seed is -1; enter a value from 0 to 99',
        "node 1 \"A Number\": kind is 'huge'; choose one of small, big",
        "node 2 \"Second\": scale is 'wide'; enter a number",
        'node 3 "Add": a (NUMBER) is missing; connect it',
        'node 7 "Unknown": node type Unknown needs ComfyUI; run the workflow with --comfyui or --server',
        'node 9 "Picky": b begins with no a; use another',
        "the workflow has no output node; add one, such as Save Image",
    ]


def test_a_wildcard_takes_any_link_and_a_union_takes_its_members():
    data = change(prompt(), "3", extra=["1", 1])
    data["6"]["inputs"]["value"] = ["1", 1]
    assert problems_of(data) == []


def test_values_are_brought_to_their_types_and_missing_ones_filled():
    workflow = graph.from_json({"1": {"class_type": "Number", "inputs": {"seed": "5"}}, "6": prompt()["6"]}, LIBRARY)
    workflow.prompt["6"]["inputs"]["value"] = ["1", 0]
    check(workflow, LIBRARY)
    assert workflow.prompt["1"]["inputs"] == {"seed": 5, "scale": 1.0, "kind": "small", "exact": False}


def test_a_socket_takes_no_value():
    assert problems_of(change(prompt(), "3", a=1)) == ['node 3 "Add": a is 1; connect NUMBER instead']


def test_cycles_are_named():
    data = change(prompt(), "3", b=["4", 0])
    data["4"] = {"class_type": "Add", "inputs": {"a": ["1", 0], "b": ["3", 0]}}
    assert problems_of(data) == [
        'the links form a cycle: node 3 "Add" needs node 4 "Add" needs node 3 "Add"; remove one of them'
    ]


def test_a_class_that_checks_a_choice_itself_is_asked_in_place_of_its_list():
    data = {"1": {"class_type": "Picky", "inputs": {"name": "apple"}}, "6": prompt()["6"]}
    data["6"]["inputs"]["value"] = ["1", 0]
    assert problems_of(data) == []
    assert problems_of(change(data, "1", count=4)) == ['node 1 "Picky": count is 4; enter a value of at most 3']


# Execution


def test_only_what_the_outputs_need_runs():
    data = prompt() | {"9": {"class_type": "Picky", "inputs": {"name": "awful"}}}
    assert run(data) == {"6": {"text": ["22.0"]}}
    assert [name for name, _ in CALLS] == ["Number", "Number", "Add", "Show"]


def test_a_source_runs_once_however_many_use_it():
    data = change(prompt(), "3", b=["1", 0])
    data["7"] = {"class_type": "Show", "inputs": {"value": ["1", 1]}}
    run(data)
    assert len(ran("Number")) == 1
    assert len(ran("Show")) == 2


def test_nodes_that_are_alike_share_a_result():
    data = change(prompt(), "2", **prompt()["1"]["inputs"])
    run(data)
    assert len(ran("Number")) == 1
    assert ran("Add")[0]["a"] == ran("Add")[0]["b"]


def test_a_second_run_repeats_only_what_changed():
    executor = Executor(LIBRARY)
    run(prompt(), executor)
    CALLS.clear()
    run(change(prompt(), "2", seed=4), executor)
    assert [name for name, _ in CALLS] == ["Number", "Add", "Show"]
    assert ran("Number")[0]["seed"] == 4


def test_outputs_run_every_time():
    executor = Executor(LIBRARY)
    assert run(prompt(), executor) == run(prompt(), executor)
    assert [name for name, _ in CALLS] == ["Number", "Number", "Add", "Show", "Show"]


def test_a_changed_file_runs_again():
    data = {"1": {"class_type": "Picky", "inputs": {"name": "a"}}, "6": prompt()["6"]}
    data["6"]["inputs"]["value"] = ["1", 0]
    executor = Executor(LIBRARY)
    counts = []
    for version in (1, 1, 2, float("nan"), float("nan")):
        Picky.version = version
        run(data, executor)
        counts.append(len(ran("Picky")))
    assert counts == [1, 1, 2, 3, 4]


def test_hidden_inputs_are_filled():
    run(canvas())
    assert ran("Show")[0] == {
        "value": 22.0, "prompt": prompt(), "extra_pnginfo": {"workflow": canvas()}, "node_id": "6",
    }  # fmt: skip


def test_a_failing_node_is_named_and_leaves_earlier_outputs(tmp_path):
    data = {"0": {"class_type": "Show", "inputs": {"value": ["2", 0]}}, **prompt()}
    data["1"] = {"class_type": "Picky", "inputs": {"name": "awful"}}
    workflow = graph.from_json(data, LIBRARY)
    check(workflow, LIBRARY)
    shown = Executor(LIBRARY).run(workflow)
    assert next(shown)[0] == "0"
    with pytest.raises(NodeError, match="""node 1 "Picky" failed: KeyError: 'gone'"""):
        next(shown)


def test_titles_are_announced_before_each_node():
    titles = []
    run(canvas(), Executor(LIBRARY, started=titles.append))
    assert titles == ["A Number", "Second", "Add", "Show It"]
