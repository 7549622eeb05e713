"""What a canvas resolves before it queues: subgraphs, groups, primitives, muted nodes, text; each case runs."""

import json
import random
import re
from datetime import datetime

import pytest
from canvases import Canvas, feed, scaling
from fake_nodes import CALLS
from fake_nodes import LIBRARY as FAKE
from helpers import write
from PIL import Image
from sd2_family.headless import canvas, canvas_text, graph, overrides
from sd2_family.headless.cli import main
from sd2_family.headless.execute import Executor
from sd2_family.headless.image_files import image_text
from sd2_family.headless.inputs import parse, widget_slots
from sd2_family.headless.library import LIBRARY


@pytest.fixture(autouse=True)
def folder(scaling_folder):
    CALLS.clear()
    return scaling_folder


@pytest.fixture
def size(folder, capsys):
    """size(canvas): run it; the sizes of the pictures that it saves, by name."""

    def run(drawn, *arguments):
        write(drawn.json() if isinstance(drawn, Canvas) else drawn)
        assert main(["run", "w.json", *arguments]) == 0, capsys.readouterr().err
        paths = capsys.readouterr().out.splitlines()
        return [Image.open(folder / path).size[0] for path in paths]

    return run


def refused(capsys, drawn):
    write(drawn.json())
    assert main(["run", "w.json"]) == 2
    return capsys.readouterr().err.removeprefix("sd2: ").strip()


def calculated(drawn):
    """Run a canvas of the fake nodes; what its Show shows."""
    workflow = graph.from_json(drawn.json(), FAKE)
    executor = Executor(FAKE)
    executor.check(workflow)
    ((_, shown),) = executor.run(workflow)
    return float(shown["text"][0])


def number(drawn, seed, *controls, scale=1.0, **more):
    return drawn.add("Number", [seed, *controls, scale, "small", False, "x"], **more)


# Primitives


def test_a_primitive_sets_the_widget_that_it_feeds_whatever_value_that_had(size):
    drawn, (_, scale, _) = scaling(16)
    feed(drawn, scale, "width", (drawn.add("PrimitiveNode", [24, "fixed"]), 0))
    assert size(drawn) == [24]


def test_a_primitive_reaches_its_widget_through_reroutes(size):
    drawn, (_, scale, _) = scaling(16)
    source = (drawn.add("PrimitiveNode", [24, "fixed"]), 0)
    for _ in range(3):
        source = (drawn.add("Reroute", inputs={"": source}), 0)
    feed(drawn, scale, "width", source)
    assert size(drawn) == [24]


def test_a_muted_primitive_still_has_its_value_and_one_without_a_value_leaves_the_widgets(size):
    drawn, (_, scale, _) = scaling(16)
    feed(drawn, scale, "width", (drawn.add("PrimitiveNode", [24, "fixed"], mode=2), 0))
    assert size(drawn) == [24]
    drawn.nodes[-1]["widgets_values"] = []
    assert size(drawn) == [16]


@pytest.mark.parametrize("control", ["fixed", "randomize", True, False])
def test_a_primitive_into_a_seed(control):
    drawn = Canvas()
    seed = drawn.add("PrimitiveNode", [7, "randomize"])
    source = number(drawn, 3, control, scale=2.0, inputs={"seed": (seed, 0)})
    drawn.add("Show", inputs={"value": (source, 0)})
    assert calculated(drawn) == 14


def test_one_primitive_feeds_many():
    drawn = Canvas()
    seed = (drawn.add("PrimitiveNode", [7, "fixed"]), 0)
    a, b = (number(drawn, 1, "fixed", inputs={"seed": seed}) for _ in "ab")
    added = drawn.add("Add", [0, 5], inputs={"a": (a, 0), "b": (b, 0), "offset": seed})
    drawn.add("Show", inputs={"value": (added, 0)})
    assert calculated(drawn) == 21


# Seed controls


@pytest.mark.parametrize("controls", [("fixed",), ("randomize",), (True,), (False,), ()])
def test_a_seeds_control_is_no_value_in_words_as_true_or_false_or_absent(controls):
    drawn = Canvas()
    drawn.add("Show", inputs={"value": (number(drawn, 7, *controls, scale=1.5), 0)})
    assert calculated(drawn) == 10.5


def test_an_old_canvas_can_be_set_and_keeps_its_form():
    drawn = Canvas()
    drawn.add("Show", inputs={"value": (number(drawn, 7, True, scale=1.5), 0)})
    workflow = graph.from_json(drawn.json(), FAKE)
    overrides.set_value(workflow, "1.scale=0.5", FAKE)
    assert workflow.ui["nodes"][0]["widgets_values"] == [7, True, 0.5, "small", False, "x"]
    assert graph.from_json(workflow.ui, FAKE).prompt == workflow.prompt


@pytest.mark.parametrize("extra", [["image"], [None], [], [{"name": "upload"}], ["image", {"name": "upload"}], [{}]])
def test_values_of_buttons_are_no_values(extra, size):
    drawn, (load, *_) = scaling(16)
    drawn.nodes[load - 1]["widgets_values"] = ["in.png", *extra]
    assert size(drawn) == [16]


def test_a_boolean_after_a_seed_is_a_value():
    declared = parse({"required": {"seed": ("INT", {}), "tiled": ("BOOLEAN", {}), "steps": ("INT", {})}})
    assert widget_slots(declared, [7, True, 20]) == {"seed": 0, "tiled": 1, "steps": 2}
    assert widget_slots(declared, [7, "fixed", True, 20]) == {"seed": 0, "tiled": 2, "steps": 3}


# Subgraphs


def subgraph(drawn, inner_width):
    """A subgraph that scales, with its width promoted."""
    inner = Canvas()
    scale = inner.add(
        "ImageScale", ["nearest-exact", inner_width, 8, "disabled"], inputs={"image": None, "width": None}
    )
    return drawn.define(inner, {"image": (scale, "image"), "width": (scale, "width")}, {"IMAGE": (scale, 0)})


def framed(drawn, kind, values, **inputs):
    """Load Image -> a node of a type -> Save Image; returns the node's id."""
    load = drawn.add("LoadImage", ["in.png", "image"])
    node = drawn.add(kind, values, inputs={"image": (load, 0), "width": None, **inputs}, outputs=["IMAGE"])
    drawn.add("SaveImage", ["big"], inputs={"images": (node, 0)})
    return node


@pytest.mark.parametrize(("values", "width"), [([24], 24), ([], 16), (None, 16)])
def test_a_promoted_widget_has_its_own_value_else_that_inside(values, width, size):
    drawn = Canvas()
    framed(drawn, subgraph(drawn, 16), values)
    assert size(drawn) == [width]


def test_a_promoted_widget_takes_a_primitive_outside(size):
    drawn = Canvas()
    node = framed(drawn, subgraph(drawn, 16), [24])
    feed(drawn, node, "width", (drawn.add("PrimitiveNode", [32, "fixed"]), 0))
    assert size(drawn) == [32]


def test_a_primitive_inside_a_subgraph(size):
    drawn = Canvas()
    inner = Canvas()
    width = inner.add("PrimitiveNode", [40, "fixed"])
    scale = inner.add("ImageScale", ["nearest-exact", 8, 8, "disabled"], inputs={"image": None, "width": (width, 0)})
    framed(drawn, drawn.define(inner, {"image": (scale, "image")}, {"IMAGE": (scale, 0)}), [])
    assert size(drawn) == [40]


def nested(drawn):
    """A subgraph in a subgraph, the inner one's width promoted through both."""
    inner = subgraph(drawn, 16)
    middle = Canvas()
    node = middle.add(inner, [24], inputs={"image": None, "width": None}, outputs=["IMAGE"])
    middle.nodes[0]["inputs"][1]["widget"] = {"name": "width"}
    return drawn.define(middle, {"image": (node, "image"), "width": (node, "width")}, {"IMAGE": (node, 0)})


@pytest.mark.parametrize(("values", "width"), [([40], 40), ([], 16)])
def test_a_subgraph_in_a_subgraph(values, width, size):
    """The outermost value counts, else the innermost: the canvas takes no value from a promotion that is promoted."""
    drawn = Canvas()
    framed(drawn, nested(drawn), values)
    assert size(drawn) == [width]


def test_a_subgraph_twice_with_different_values(size):
    drawn = Canvas()
    kind = subgraph(drawn, 16)
    framed(drawn, kind, [24])
    framed(drawn, kind, [40])
    assert size(drawn) == [24, 40]


def test_a_bypassed_subgraph_hands_on(size):
    drawn = Canvas()
    node = framed(drawn, subgraph(drawn, 16), [24])
    drawn.nodes[node - 1]["mode"] = 4
    assert size(drawn) == [8]


def test_a_value_inside_a_subgraph_can_be_set_and_is_embedded(size, folder):
    drawn = Canvas()
    inner = Canvas()
    scale = inner.add("ImageScale", ["nearest-exact", 16, 8, "disabled"], inputs={"image": None})
    node = framed(drawn, drawn.define(inner, {"image": (scale, "image")}, {"IMAGE": (scale, 0)}), [])
    assert size(drawn, "--set", f"{node}:{scale}.width=24") == [24]
    embedded = json.loads(image_text(folder / "output" / "big_00001_.png")["workflow"])
    assert embedded["definitions"]["subgraphs"][0]["nodes"][0]["widgets_values"][1] == 24
    assert size(embedded) == [24]


def test_a_subgraph_that_is_not_in_the_file_is_said(capsys):
    drawn = Canvas()
    framed(drawn, subgraph(drawn, 16), [24])
    drawn.definitions.clear()
    assert "w.json is damaged: it lacks the subgraph that node 2 is; save it again" in refused(capsys, drawn)


def test_a_subgraph_with_one_input_and_one_output_is_no_reroute(size):
    drawn = Canvas()
    inner = Canvas()
    scale = inner.add("ImageScale", ["nearest-exact", 24, 8, "disabled"], inputs={"image": None})
    load = drawn.add("LoadImage", ["in.png", "image"])
    kind = drawn.define(inner, {"image": (scale, "image")}, {"IMAGE": (scale, 0)})
    node = drawn.add(kind, [], inputs={"image": (load, 0)}, outputs=["IMAGE"])
    drawn.add("SaveImage", ["big"], inputs={"images": (node, 0)})
    assert size(drawn) == [24]


def test_endless_subgraphs_are_refused(capsys):
    drawn = Canvas()
    kind = nested(drawn)
    framed(drawn, kind, [])
    drawn.definitions[0]["nodes"][0]["type"] = kind
    assert "w.json is damaged: subgraph Sub contains itself" in refused(capsys, drawn)


def test_subgraphs_that_multiply_beyond_measure_are_refused(capsys):
    drawn = Canvas()
    kind = subgraph(drawn, 16)
    for _ in range(5):
        wide = Canvas()
        nodes = [wide.add(kind, [], inputs={"image": None, "width": None}, outputs=["IMAGE"]) for _ in range(10)]
        kind = drawn.define(wide, {"image": (nodes[0], "image")}, {"IMAGE": (nodes[0], 0)})
    framed(drawn, kind, [])
    assert "nodes once its subgraphs are expanded, more than 10000" in refused(capsys, drawn)


# Group nodes


def grouped(drawn, prefix="workflow>", **more):
    """Load Image -> a group of two Upscale Image -> Save Image; the group has the values of both as its own."""
    scale = {
        "inputs": [{"name": "image", "type": "IMAGE", "link": None}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE"}],
    }
    nodes = [{"type": "ImageScale", "widgets_values": ["nearest-exact", 64, 8, "disabled"], **scale} for _ in "ab"]
    drawn.groups["twice"] = {"nodes": nodes, "links": [[None, 0, 0, 0, 1, "IMAGE"], [0, 0, 1, 0, 2, "IMAGE"]], **more}
    return framed(drawn, f"{prefix}twice", ["nearest-exact", 24, 8, "disabled", "nearest-exact", 40, 8, "disabled"])


@pytest.mark.parametrize("prefix", ["workflow>", "workflow/"])
def test_a_group_node_runs_with_its_own_values(prefix, size):
    drawn = Canvas()
    node = grouped(drawn, prefix)
    assert size(drawn) == [40]
    prompt = graph.from_json(drawn.json(), LIBRARY).prompt
    assert [prompt[f"{node}:{at}"]["inputs"]["width"] for at in (0, 1)] == [24, 40]


def test_an_output_that_leaves_a_group_midway(size):
    drawn = Canvas()
    node = grouped(drawn, external=[[0, 0, "IMAGE"]])
    drawn.nodes[node - 1]["outputs"] = [{"name": "a", "type": "IMAGE"}, {"name": "b", "type": "IMAGE"}]
    drawn.add("SaveImage", ["small"], inputs={"images": (node, 0)})
    feed(drawn, node + 1, "images", (node, 1))
    assert size(drawn) == [40, 24]


def test_a_group_with_a_seed_and_a_primitive():
    slot = {"name": "offset", "type": "INT", "widget": {"name": "offset"}, "link": None}
    sockets = [{"name": name, "type": "NUMBER", "link": None} for name in "ab"]
    nodes = [
        {"type": "Number", "widgets_values": [1, "fixed", 1.0, "small", False, "x"], "outputs": [{"name": "NUMBER"}]},
        {"type": "PrimitiveNode", "title": "More", "widgets_values": [1, "fixed"], "outputs": [{"name": "INT"}]},
        {"type": "Add", "widgets_values": [0, 5], "inputs": [*sockets, slot], "outputs": [{"name": "NUMBER"}]},
    ]
    links = [[0, 0, 2, 0, 1, "NUMBER"], [0, 0, 2, 1, 1, "NUMBER"], [1, 0, 2, 2, 2, "INT"]]
    drawn = Canvas()
    drawn.groups["sum"] = {"nodes": nodes, "links": links}
    values = [7, "randomize", 0.5, "small", False, "x", 100, "fixed", 5]
    drawn.add("Show", inputs={"value": (drawn.add("workflow>sum", values, outputs=["NUMBER"]), 0)})
    assert calculated(drawn) == 7 * 0.5 * 2 + 100


@pytest.mark.parametrize("damage", [{"nodes": 3}, {"nodes": [3]}, {"nodes": [{"type": 3}]}, {"nodes": [{}]}])
def test_a_damaged_group_is_one_sentence(damage, capsys):
    drawn = Canvas()
    grouped(drawn)
    drawn.groups["twice"] = damage
    assert "w.json is damaged: " in refused(capsys, drawn)


def test_a_group_without_its_definition_is_named(capsys):
    drawn = Canvas()
    grouped(drawn)
    drawn.groups.clear()
    assert "node type workflow>twice" in refused(capsys, drawn)


# Muted, bypassed and unknown nodes


def test_a_muted_node_that_nothing_needs_is_left_out(size):
    drawn, _ = scaling(16)
    drawn.add("LoadImage", ["missing.png", "image"], mode=2)
    assert size(drawn) == [16]


def test_a_muted_preview_of_a_missing_file(size):
    drawn, _ = scaling(16)
    load = drawn.add("LoadImage", ["missing.png", "image"])
    drawn.add("PreviewImage", inputs={"images": (load, 0)}, mode=2)
    assert size(drawn) == [16]


def test_a_node_that_no_output_needs_is_not_looked_at(size):
    drawn, (load, *_) = scaling(16)
    drawn.add("ImageScale", ["magic", -1, 8, "disabled"], inputs={"image": (load, 0)})
    drawn.add("LoadImage", ["missing.png", "image"])
    assert size(drawn) == [16]


def test_what_depends_on_a_muted_node_is_left_out_with_it(size):
    drawn, (load, *_) = scaling(16)
    muted = drawn.add("ImageScale", ["nearest-exact", 99, 8, "disabled"], inputs={"image": (load, 0)}, mode=2)
    after = drawn.add("ImageScale", ["nearest-exact", 99, 8, "disabled"], inputs={"image": (muted, 0)})
    drawn.add("SaveImage", ["more"], inputs={"images": (after, 0)})
    assert size(drawn) == [16]


def test_an_optional_input_from_a_muted_node_is_left_out_alone():
    drawn = Canvas()
    a, muted = number(drawn, 3), number(drawn, 5, mode=2)
    added = drawn.add("Add", [1, 6], inputs={"a": (a, 0), "b": (a, 0), "extra": (muted, 0)})
    drawn.add("Show", inputs={"value": (added, 0)})
    assert calculated(drawn) == 7


def test_all_outputs_muted_away_is_said(capsys):
    drawn, (_, scale, _) = scaling(16)
    drawn.nodes[scale - 1]["mode"] = 2
    said = refused(capsys, drawn)
    assert said == f'node 3 "Save Image": images comes from node {scale}, which is muted; set its mode to Always'


@pytest.mark.parametrize("values", [["nearest-exact", 99, 8, "disabled"], ["magic", -1], None])
def test_a_bypassed_node_hands_on_whatever_its_values(values, size):
    drawn, (_, scale, _) = scaling(16)
    drawn.nodes[scale - 1] |= {"mode": 4, "widgets_values": values}
    assert size(drawn) == [8]


def test_a_bypassed_node_that_has_nothing_to_hand_on(capsys):
    drawn, (load, *_) = scaling(16)
    drawn.nodes[load - 1]["mode"] = 4
    assert refused(capsys, drawn) == 'node 2 "Upscale Image": image (IMAGE) is missing; connect it'


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "Label (rgthree)", "described": False},
        {"kind": "Fast Groups Muter (rgthree)", "described": False, "outputs": ["*"]},
        {"kind": "Note Plus", "outputs": [], "values": ["text", None, {"a": []}]},
        {"kind": "Loader of another pack", "outputs": ["MODEL"], "values": ["x.safetensors"]},
    ],
)
def test_nodes_of_unknown_type_that_nothing_needs_are_left_out(more, size):
    drawn, _ = scaling(16)
    drawn.add(more.pop("kind"), more.pop("values", None), **more)
    assert size(drawn) == [16]


def test_a_node_that_only_the_canvas_has_may_take_something(size):
    drawn, (load, *_) = scaling(16)
    drawn.add("Fast Muter (rgthree)", described=False, outputs=["*"], inputs={"Load Image": (load, 0), "": None})
    assert size(drawn) == [16]


def test_another_packs_reroute_hands_on(size):
    drawn, (load, scale, _) = scaling(16)
    reroute = drawn.add("Reroute (rgthree)", described=False, outputs=["*"], inputs={"": (load, 0)})
    feed(drawn, scale, "image", (reroute, 0))
    assert size(drawn) == [16]


@pytest.mark.parametrize("outputs", [[], ["IMAGE"]])
def test_a_node_of_unknown_type_that_may_be_an_output_is_named(outputs, capsys):
    drawn, (load, *_) = scaling(16)
    drawn.add("Image Save", ["x"], outputs=outputs, inputs={"images": (load, 0)})
    assert refused(capsys, drawn).startswith('node 4 "Image Save": node type Image Save needs ComfyUI')


def test_every_unknown_node_that_an_output_needs_is_named_with_all_else(capsys):
    drawn, (load, *_) = scaling(-1)
    for kind in ("One", "Two"):
        node = drawn.add(kind, [1, 2], outputs=["IMAGE"], inputs={"image": (load, 0)})
        drawn.add("PreviewImage", inputs={"images": (node, 0)})
    lines = refused(capsys, drawn).splitlines()
    assert len(lines) == 4
    assert "width is -1" in lines[1]
    assert ["One" in lines[2], "Two" in lines[3]] == [True, True]


def test_a_class_is_read_off_the_type_not_off_a_property(size):
    drawn, (load, *_) = scaling(16)
    drawn.nodes[load - 1]["properties"] = {"Node name for S&R": "SaveImage"}
    assert size(drawn) == [16]


@pytest.mark.parametrize("form", ["canvas", "prompt"])
@pytest.mark.parametrize(("old", "new"), canvas.RENAMED.items())
def test_names_of_types_that_comfyui_has_changed(old, new, form):
    node_class = type("Average", (), {"INPUT_TYPES": classmethod(lambda cls: {"required": {"by": ("FLOAT", {})}})})
    node_class.RETURN_TYPES = ()
    library = graph.Library({new: node_class}, {})
    drawn = Canvas()
    drawn.add(old, [0.5])
    data = drawn.json() if form == "canvas" else {"1": {"class_type": old, "inputs": {"by": 0.5}}}
    (node,) = graph.from_json(data, library).prompt.values()
    assert (node["class_type"], node["inputs"]) == (new, {"by": 0.5})
    known = graph.Library({old: node_class}, {})
    (node,) = graph.from_json(data, known).prompt.values()
    assert (node["class_type"], node["inputs"]) == (old, {"by": 0.5})


def test_load_image_output_is_a_node_that_is_named(capsys):
    drawn, (load, *_) = scaling(16)
    drawn.nodes[load - 1]["type"] = "LoadImageOutput"
    assert "node type LoadImageOutput" in refused(capsys, drawn)


# Text


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("a {red} house", {"a red house"}),
        ("a {red|blue} house", {"a red house", "a blue house"}),
        ("a {red|{dark|light} blue} house", {"a red house", "a dark blue house", "a light blue house"}),
        (r"a \{red\|blue\} house", {"a {red|blue} house"}),
        ("a house // in the snow", {"a house "}),
        ("a /* red\nor blue */house", {"a house"}),
        ("a | b", {"a | b"}),
    ],
)
def test_alternatives_and_comments(text, allowed):
    drawn = [canvas_text._chosen(text, random.Random(seed)) for seed in range(40)]
    assert set(drawn) == allowed


def prompting(text, seed=7):
    drawn = Canvas()
    node = number(drawn, seed, "fixed")
    drawn.nodes[0]["widgets_values"][-1] = text
    drawn.add("Show", inputs={"value": (node, 1)})
    return graph.from_json(drawn.json(), FAKE)


@pytest.fixture
def chosen(monkeypatch):
    """chosen(text, seed): what the fake node's `word` becomes, here declared as a prompt."""
    declared = FAKE.classes["Number"].INPUT_TYPES()
    declared["optional"]["word"][1]["dynamicPrompts"] = True
    monkeypatch.setattr(FAKE.classes["Number"], "INPUT_TYPES", classmethod(lambda cls: declared))

    def fill(text, seed=7):
        workflow = prompting(text, seed)
        canvas_text.fill_in(workflow, FAKE)
        word = workflow.prompt["1"]["inputs"]["word"]
        assert workflow.ui["nodes"][0]["widgets_values"][-1] == word  # so that a saved picture shows it
        return word

    return fill


def test_the_same_seed_makes_the_same_choice_and_others_another(chosen):
    texts = [chosen("{a|b|c|d}", seed) for seed in range(30)]
    assert texts == [chosen("{a|b|c|d}", seed) for seed in range(30)]
    assert set(texts) == set("abcd")
    state = random.getstate()
    chosen("{a|b}")
    assert random.getstate() == state


def test_text_that_is_no_prompt_stays():
    workflow = prompting("{a|b} // c")
    canvas_text.fill_in(workflow, FAKE)
    assert workflow.prompt["1"]["inputs"]["word"] == "{a|b} // c"


def test_what_ran_is_not_replaced_again(size, folder):
    drawn, _ = scaling(16, prefix="%date:yyyy%")
    size(drawn)
    (path,) = (folder / "output").iterdir()
    prompt = json.loads(image_text(path)["prompt"])
    prompt["3"]["inputs"]["filename_prefix"] = "a%date:yyyy%"
    size(prompt)
    assert list((folder / "output").glob("a%date:yyyy%_*_.png"))


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("yyyy-MM-dd", "2026-03-04"),
        ("yy.M.d", "26.3.4"),
        ("hh_mm_ss", "05_06_07"),
        ("h m s", "5 6 7"),
        ("yyy", "yyy"),
        ("MMdd'", "0304'"),
    ],
)
def test_dates(form, written):
    assert canvas_text._date(form, datetime(2026, 3, 4, 5, 6, 7)) == written


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("a-%date:yyyy%", rf"a-{datetime.now().year}"),
        ("%date:yyyy-MM-dd%/img", r"img"),
        ("w%ImageScale.width%", "w16"),
        ("w%Wide.width%", "w16"),
        ("%Picture.image%", "in.png"),
        ("%Nobody.width%x", "%Nobody.width%x"),
        ("%ImageScale.nothing%", "%ImageScale.nothing%"),
        ("%a.b.c%", "%a.b.c%"),
        ("%Value.value%", "9"),
        ("%width%", "16"),
    ],
)
def test_names_in_prefixes(prefix, name, size, folder):
    drawn, (load, *_) = scaling(16, prefix=prefix, title="Wide")
    drawn.nodes[load - 1]["title"] = "Picture"
    drawn.add("PrimitiveNode", [9, "fixed"], title="Value")
    size(drawn)
    (path,) = (path for path in (folder / "output").rglob("*.png"))
    assert re.fullmatch(rf"{re.escape(name)}_00001_\.png", path.name)


def test_a_value_with_signs_that_no_file_name_has(size, folder):
    (folder / "a b").mkdir()
    (folder / "in.png").rename(folder / "a b" / "in.png")
    drawn, _ = scaling(16, image="a b/in.png", prefix="%LoadImage.image%")
    size(drawn)
    assert (folder / "output" / "a b_in.png_00001_.png").is_file()


def test_a_name_gets_the_value_that_was_set(size, folder):
    drawn, _ = scaling(16, prefix="w%ImageScale.width%")
    size(drawn, "--set", "2.width=24")
    assert (folder / "output" / "w24_00001_.png").is_file()
    embedded = json.loads(image_text(folder / "output" / "w24_00001_.png")["workflow"])
    assert embedded["nodes"][2]["widgets_values"] == ["w%ImageScale.width%"]


@pytest.mark.parametrize(("value", "written"), [(8.0, "8"), (0.5, "0.5"), (True, "true"), (None, ""), ("a", "a")])
def test_values_are_written_as_the_canvas_does(value, written):
    assert canvas_text._written(value) == written
