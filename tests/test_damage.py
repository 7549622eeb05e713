"""Workflow files as others write and damage them: what is read, and what is refused in one sentence."""

import contextlib
import copy
import json
import random

import pytest
from canvases import Canvas, feed, scaling
from helpers import write
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sd2_family.headless import graph
from sd2_family.headless.check import check
from sd2_family.headless.cli import main
from sd2_family.headless.library import LIBRARY
from test_canvas import grouped, nested


@pytest.fixture(autouse=True)
def folder(scaling_folder):
    return scaling_folder


def prompt():
    return graph.from_json(scaling()[0].json(), LIBRARY).prompt


# Files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("form", ["canvas", "prompt"])
def test_json_in_each_encoding_that_editors_write(encoding, form, folder, capsys):
    data = scaling(prefix="größe")[0].json()
    data = data if form == "canvas" else graph.from_json(data, LIBRARY).prompt
    (folder / "w.json").write_text(json.dumps(data, ensure_ascii=False), encoding=encoding)
    assert main(["run", "w.json"]) == 0
    assert capsys.readouterr().out == "output/größe_00001_.png\n"


def image_with(path, kind, **text):
    """Write an image with text where a program that writes this kind has it."""
    image, options = Image.new("RGB", (8, 8)), {}
    if kind in ("png", "zip", "late", "comf"):
        options["pnginfo"] = PngInfo()
        for key, value in text.items():
            if kind == "comf":
                options["pnginfo"].add(b"comf", f"{key}\0{value}".encode("latin-1"), after_idat=True)
            elif kind == "late":
                options["pnginfo"].add(b"tEXt", f"{key}\0{value}".encode("latin-1"), after_idat=True)
            elif kind == "zip":
                options["pnginfo"].add_itxt(key, value, zip=True)
            else:
                options["pnginfo"].add_text(key, value)
    else:  # as SaveAnimatedWEBP writes EXIF
        exif = Image.Exif()
        for tag, (key, value) in zip((0x0110, 0x010F), text.items(), strict=False):
            exif[tag] = f"{key}:{value}"
        options["exif"] = exif
    image.save(path, {"webp": "WEBP", "jpg": "JPEG"}.get(kind, "PNG"), **options)


@pytest.mark.parametrize("kind", ["png", "zip", "late", "comf", "webp", "jpg"])
@pytest.mark.parametrize("keys", [("prompt", "workflow"), ("prompt",), ("workflow",)])
@pytest.mark.parametrize("name", ["own", "w.json", "w.png", "w"])
def test_a_workflow_in_an_image_is_read_whatever_the_suffix(kind, keys, name, folder):
    canvas = scaling(24)[0].json()
    text = {"prompt": json.dumps(prompt()), "workflow": json.dumps(canvas)}
    path = folder / (f"w.{kind}" if name == "own" else name)
    image_with(path, kind, **{key: text[key] for key in keys})
    workflow = graph.read(path, LIBRARY)
    assert workflow.prompt["2"]["inputs"]["width"] == (16 if "prompt" in keys else 24)
    assert workflow.ui == (canvas if "workflow" in keys else None)


@pytest.mark.parametrize("text", ["a cat", "{}", "[]", "3", '{"1": {"class_type": 5}}', "{" * 9])
def test_other_programs_text_of_that_name_is_passed_over(text, folder):
    image_with(folder / "w.png", "png", prompt=text, workflow=json.dumps(scaling(24)[0].json()))
    assert graph.read(folder / "w.png", LIBRARY).prompt["2"]["inputs"]["width"] == 24
    image_with(folder / "w.png", "png", prompt=text)
    with pytest.raises(graph.WorkflowError, match=r"w\.png contains no workflow"):
        graph.read(folder / "w.png", LIBRARY)


def test_a_damaged_canvas_beside_what_ran_is_passed_over(folder):
    canvas = scaling(24)[0].json()
    canvas["nodes"][0] = 3
    image_with(folder / "w.png", "png", prompt=json.dumps(prompt()), workflow=json.dumps(canvas))
    assert main(["run", "w.png", "--set", "2.width=32"]) == 0


def test_json_named_as_an_image(folder):
    write(scaling()[0].json(), "w.png")
    assert main(["run", "w.png"]) == 0


def test_what_is_posted_to_a_server_is_read(folder):
    write({"prompt": prompt(), "client_id": "a"})
    assert main(["run", "w.json"]) == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"nodes":', b"\xff\xfe\x00", b"\x80", b"[" * 200_000, b'{"a":' * 200_000, b"1" * 5000]
)
@pytest.mark.parametrize("name", ["w.json", "w"])
def test_what_is_no_json_is_one_sentence(content, name, folder, capsys):
    (folder / name).write_bytes(content)
    assert main(["run", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sd2: {folder / name} ")


def test_half_an_image_is_one_sentence(folder, capsys):
    Image.effect_noise((64, 64), 50).save("n.png")
    (folder / "w.png").write_bytes((folder / "n.png").read_bytes()[:2000])
    assert main(["run", "w.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "w.png is a damaged image" in line


# Damage


def good():
    """A canvas with something of everything."""
    drawn, (load, scale, _) = scaling(16, title="Wide")
    width = drawn.add("PrimitiveNode", [24, "fixed"])
    reroute = drawn.add("Reroute", inputs={"": (width, 0)})
    feed(drawn, scale, "width", (reroute, 0))
    kind = nested(drawn)
    inside = drawn.add(kind, [24], inputs={"image": (load, 0), "width": None}, outputs=["IMAGE"])
    drawn.add("PreviewImage", inputs={"images": (inside, 0)})
    drawn.add("PreviewImage", inputs={"images": (scale, 0)}, mode=2)
    more = Canvas()
    grouped(more, config={"0": {"input": {"width": {"name": "w"}}, "output": {"0": {"visible": False}}}})
    drawn.groups |= more.groups
    values = ["nearest-exact", 24, 8, "disabled", "nearest-exact", 40, 8, "disabled"]
    group = drawn.add("workflow>twice", values, inputs={"image": (load, 0)}, outputs=["IMAGE"])
    drawn.add("PreviewImage", inputs={"images": (group, 0)}, mode=4)
    drawn.add("Label", described=False)
    return drawn.json()


def spots(data, path=()):
    """The path of every entry of parsed JSON."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from spots(value, (*path, key))


WRONG = [None, 3, -1, "", "x", "%a.b%{", [], [[]], {}, {"a": []}, True, 1e400, 10**30]


def damaged(seed):
    """The good canvas with one to three entries replaced by something else, or gone."""
    draw = random.Random(seed)
    data = good()
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        *path, key = draw.choice(list(spots(data)))
        entry = data
        for step in path:
            entry = entry[step]
        if draw.random() < 0.2:
            del entry[key]
        else:
            entry[key] = copy.deepcopy(draw.choice(WRONG))
    return data


def test_the_good_canvas_runs():
    write(good())
    assert main(["run", "w.json"]) == 0


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_a_sentence_never_an_error_of_python(seed, folder):
    for number in range(12):
        data = damaged(1000 * seed + number)
        write(data)
        try:
            workflow = graph.read(folder / "w.json", LIBRARY)
        except graph.WorkflowError as error:
            for problem in error.problems:
                assert problem.startswith((f"{folder / 'w.json'} ", "node "))
                assert not any(word in problem for word in ("Error", "object", "NoneType", "Traceback"))
            continue
        with contextlib.suppress(graph.WorkflowError):
            check(workflow, LIBRARY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["nodes"].append(3), "a node has no id"),
        (lambda data: data["nodes"].append({"id": 7}), "node 7 has no type"),
        (lambda data: data["nodes"][0].update(id=None), "a node has no id"),
        (lambda data: data["nodes"][0].update(id=[1]), "a node has no id"),
        (lambda data: data["nodes"][0].update(type=["LoadImage"]), "node 1 has no type"),
        (lambda data: data["nodes"][0].update(inputs="image"), "node 1 has inputs that are no list of slots"),
        (lambda data: data["nodes"][1].update(inputs=[{}]), "node 2 has an input without a name"),
        (lambda data: data["nodes"][1]["inputs"][0].update(link=[1]), "node 2 has a damaged link to image"),
        (lambda data: data["nodes"][1].update(widgets_values="16"), "node 2 has widget values that are no list"),
        (lambda data: data["links"].append([1]), "a link has not two ends"),
        (lambda data: data["links"].append({"id": 4}), "a link has not two ends"),
        (lambda data: data["links"].append([4, 1, "x", 2, 0]), "a link has not two ends"),
        (lambda data: data.update(definitions={"subgraphs": 3}), "its list of subgraphs is no list"),
        (lambda data: data.update(definitions=[1]), "its list of subgraphs is no list"),
        (lambda data: data.update(definitions={"subgraphs": [{}]}), "a subgraph has no id"),
    ],
)
def test_the_damage_is_named(change, said, folder, capsys):
    data = scaling()[0].json()
    change(data)
    write(data)
    assert main(["run", "w.json"]) == 2
    assert capsys.readouterr().err == (
        f"sd2: {folder / 'w.json'} is damaged: {said}; open it in ComfyUI and save it again\n"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["links"].append(None),
        lambda data: data["links"].append([9, 77, 0, 88, 0, "IMAGE"]),
        lambda data: data["nodes"][1]["inputs"][1].update(link=99),
        lambda data: data["nodes"][0].update(properties=[]),
        lambda data: data["nodes"][0].update(outputs=None),
        lambda data: data["nodes"][0].update(mode=None),
        lambda data: data.update(extra=None, groups=None, definitions=None),
        lambda data: data.update(links=[link[:5] for link in data["links"]]),
        lambda data: data.update(links=[[i, str(a), str(b), str(c), str(d), t] for i, a, b, c, d, t in data["links"]]),
    ],
)
def test_what_the_canvas_puts_up_with_runs(change, folder):
    data = scaling()[0].json()
    change(data)
    write(data)
    assert main(["run", "w.json"]) == 0
    assert Image.open(folder / "output" / "big_00001_.png").size == (16, 8)


def test_a_link_to_nowhere_counts_as_none(capsys):
    data = scaling()[0].json()
    data["nodes"][1]["inputs"][0]["link"] = 99
    write(data)
    assert main(["run", "w.json"]) == 2
    assert capsys.readouterr().err == 'sd2: node 2 "Upscale Image": image (IMAGE) is missing; connect it\n'


def test_a_node_that_the_converter_gives_up_is_named(folder, monkeypatch, capsys):
    """comfy-cli logs such a node and leaves it out; here a description makes it fail."""
    described = LIBRARY.object_info
    described["ImageScale"]["input_order"] = {"required": [[]]}
    library = graph.Library(LIBRARY.classes, LIBRARY.names, described)
    write(scaling()[0].json())
    with pytest.raises(graph.WorkflowError, match="is damaged at node 2; open it in ComfyUI and save it again"):
        graph.read(folder / "w.json", library)
    assert capsys.readouterr().err == ""
