"""`sd2 run --server`, against a server that only pretends to make pictures."""

import json
import struct
import sys
from datetime import datetime

import canvases
import pytest
from fake_server import FakeServer
from helpers import scaling, write
from PIL import Image
from sd2_family.headless import graph
from sd2_family.headless.cli import main
from sd2_family.headless.image_files import image_text
from sd2_family.headless.library import LIBRARY
from sd2_family.headless.server import Server
from shipped import WORKFLOWS, named


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture(autouse=True)
def folder(scaling_folder):
    return scaling_folder


@pytest.fixture
def run(server):
    return lambda *arguments: main(["run", "w.json", "--server", server.url, *arguments])


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_run_brings_its_pictures_here_and_names_them(run, folder, capsys):
    for number in (1, 2):
        assert run("--output-dir", "made", "--set", "3.filename_prefix=a/b") == 0
        said = capsys.readouterr()
        assert said.out == f"made/a/b_0000{number}_.png\n"  # the server's own has number 41
        assert all(f"{title}:  50%" in said.err for title in ("Load Image", "Scale", "Save Image"))
    assert Image.open(folder / "made" / "a" / "b_00002_.png").getpixel((0, 0)) == (255, 0, 0)
    assert len(list((folder / "made" / "a").iterdir())) == 2


def test_what_our_nodes_say_there_is_said_here(run, server, monkeypatch, caplog, folder):
    nodes = [
        {"id": 1, "type": "SD2SampleImage", "widgets_values": ["beach.png"]},
        {
            "id": 2,
            "type": "PreviewImage",
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "widgets_values": [],
        },
    ]
    write({"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]], "version": 0.4})

    def text(node_id, sentence):
        server.send(struct.pack(">II", 3, len(node_id)) + node_id.encode() + sentence.encode(), binary=True)

    def messages(prompt):
        text("1", "first")
        text("1", "first\nsécond")
        text("2", "of a core node")
        text("9", "of nobody")
        yield "executing", {"node": None}

    monkeypatch.setattr(server, "usual", messages)
    assert run() == 0
    assert caplog.messages == ["first", "sécond"]


def test_what_is_queued_is_the_workflow_with_its_values_set(run, server, folder):
    assert run("--set", "Scale.width=24") == 0
    (job,) = server.jobs
    set_canvas = scaling()
    set_canvas["nodes"][1]["widgets_values"][1] = 24
    assert job["prompt"] == graph.from_json(set_canvas, LIBRARY).prompt
    assert job["extra_data"] == {"extra_pnginfo": {"workflow": set_canvas}}
    text = image_text(folder / "output" / "big_00001_.png")
    assert json.loads(text["workflow"]) == set_canvas


def test_api_format_and_pictures_are_queued_as_they_are(server, folder):
    prompt = graph.from_json(scaling(), LIBRARY).prompt
    write(prompt)
    assert main(["run", "w.json", "--server", server.url.removeprefix("http://")]) == 0
    assert main(["run", "output/big_00001_.png", "--server", f"{server.url}/", "--input-dir", "."]) == 0
    assert [job["prompt"] for job in server.jobs] == [prompt, prompt]
    assert [job["extra_data"] for job in server.jobs] == [{}, {}]


def test_pictures_are_uploaded_from_where_they_are_looked_up(run, server, folder):
    (folder / "photos" / "clipspace").mkdir(parents=True)
    (folder / "in.png").rename(folder / "photos" / "clipspace" / "mask.png")
    data = scaling()
    data["nodes"][0]["widgets_values"][0] = "clipspace/mask.png [input]"  # as the mask editor names what it saves
    data["nodes"].append({"id": 4, "type": "LoadImageMask", "widgets_values": ["clipspace/mask.png", "red", "image"]})
    write(data)
    assert run("--input-dir", "photos") == 0
    assert server.files["input", "clipspace", "mask.png"] == (folder / "photos/clipspace/mask.png").read_bytes()
    (job,) = server.jobs
    assert job["prompt"]["1"]["inputs"]["image"] == job["prompt"]["4"]["inputs"]["image"] == "clipspace/mask.png"


def test_embeddings_are_uploaded_too(server, folder):
    (folder / "prior.safetensors").write_bytes(b"embeddings")
    prompt = {"1": {"class_type": "SD2LoadImageEmbedding", "inputs": {"file": "prior.safetensors"}}}
    workflow = graph.from_json(prompt, LIBRARY)
    server.files["input", "", "prior.safetensors"] = b"others"
    Server(server.url).check(workflow)
    assert server.files["input", "", "prior (1).safetensors"] == b"embeddings"
    assert workflow.prompt["1"]["inputs"]["file"] == "prior (1).safetensors"


def test_a_picture_never_takes_the_place_of_the_servers(run, server, folder):
    server.files["input", "", "in.png"] = b"another picture"
    for _ in range(2):
        assert run() == 0
    assert server.files["input", "", "in.png"] == b"another picture"
    for job in server.jobs:
        assert job["prompt"]["1"]["inputs"]["image"] == "in (1).png"
        assert job["extra_data"]["extra_pnginfo"]["workflow"]["nodes"][0]["widgets_values"][0] == "in (1).png"
    assert len([key for key in server.files if key[0] == "input"]) == 2


@pytest.mark.parametrize("name", ["there.png", "made.png [output]"])
def test_a_picture_that_only_the_server_has_is_left_there(run, server, name):
    server.files["input", "", "there.png"] = b"picture"
    assert run("--set", f"Load Image.image={name}") == 0
    assert server.jobs[0]["prompt"]["1"]["inputs"]["image"] == name


def test_what_the_canvas_has_beside_nodes_is_resolved(run, server):
    data = scaling()
    data["nodes"][1] |= {"mode": 4, "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [2]}]}  # bypassed
    data["nodes"].append({"id": 4, "type": "PrimitiveNode", "widgets_values": ["big"]})
    data["nodes"][2]["inputs"].append({"name": "filename_prefix", "widget": {"name": "filename_prefix"}, "link": 3})
    data["links"].append([3, 4, 0, 3, 1, "STRING"])
    write(data)
    assert run() == 0
    (job,) = server.jobs
    assert set(job["prompt"]) == {"1", "3"}
    assert job["prompt"]["3"]["inputs"] == {"images": ["1", 0], "filename_prefix": "big"}


def test_text_is_replaced_before_it_is_queued(server, folder):
    drawn, (load, *_) = canvases.scaling(16, prefix="%date:yyyy%-%ImageScale.width%")
    text = drawn.add("CLIPTextEncode", ["a {red|red} house // or not"], inputs={"clip": (load, 0)})
    write(drawn.json())
    assert main(["run", "w.json", "--server", server.url, "--set", "2.width=24"]) == 0
    (job,) = server.jobs
    assert job["prompt"]["3"]["inputs"]["filename_prefix"] == f"{datetime.now().year}-24"
    assert job["prompt"][str(text)]["inputs"]["text"] == "a red house "
    embedded = job["extra_data"]["extra_pnginfo"]["workflow"]["nodes"]
    assert [embedded[at]["widgets_values"] for at in (2, 3)] == [["%date:yyyy%-%ImageScale.width%"], ["a red house "]]


def test_nodes_that_only_the_canvas_has_are_not_queued(server):
    drawn, _ = canvases.scaling(16)
    drawn.add("Label (rgthree)", described=False)
    drawn.add("LoadImage", ["missing.png", "image"])  # nothing needs it: the server does not look for it either
    write(drawn.json())
    assert main(["run", "w.json", "--server", server.url]) == 0
    assert set(server.jobs[0]["prompt"]) == {"1", "2", "3", "5"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_our_workflows_are_converted_here_as_with_the_servers_description(path, server):
    assert Server(server.url).read(path).prompt == graph.read(path, LIBRARY).prompt


def test_all_that_is_wrong_here_is_said_before_anything_is_queued(run, server, folder, capsys):
    (folder / "in.png").unlink()
    data = scaling()
    picture = [{"name": "images", "type": "IMAGE", "link": 3}]
    data["nodes"].append({"id": 4, "type": "Unknown", "inputs": picture})
    data["nodes"].append({"id": 5, "type": "LoadImage", "widgets_values": ["../up.png", "image"]})
    data["nodes"].append({"id": 6, "type": "PreviewImage", "inputs": picture})
    data["links"].append([3, 5, 0, 4, 0, "IMAGE"])
    write(data)
    assert run("--set", "Scale.depth=1") == 2
    said = lines(capsys)
    for line, words in zip(
        said,
        (
            "sd2: 4 problems:",
            "  --set Scale.depth=1: node 2 \"Scale\" has no widget 'depth'; it has upscale_method",
            f"  node 1 \"Load Image\": 'in.png' is neither in the input folder {folder} nor on the server; ",
            '  node 4 "Unknown": the server has no node type Unknown; install',
            "  node 5 \"Load Image\": '../up.png' is outside",
        ),
        strict=True,
    ):
        assert line.startswith(words)
    assert server.jobs == []


CONFIG = ["INT", {"min": 0, "max": 16384}]
COMPLAINTS = [
    (
        {
            "type": "value_smaller_than_min",
            "message": "Value -1 smaller than min of 0",
            "details": "width",
            "extra_info": {"input_name": "width", "input_config": CONFIG, "received_value": -1},
        },
        "width is -1; enter a value from 0 to 16384",
    ),
    (
        {
            "type": "value_not_in_list",
            "message": "Value not in list",
            "details": "crop: 'some' not in (list of length 21)",
            "extra_info": {"input_name": "crop", "input_config": None, "received_value": "some"},
        },
        "crop is 'some'; choose one of disabled, center",
    ),
    (
        {
            "type": "invalid_input_type",
            "message": "Failed to convert an input value to a INT value",
            "details": "height, tall, invalid literal",
            "extra_info": {"input_name": "height", "input_config": CONFIG, "received_value": "tall"},
        },
        "height is 'tall'; enter a whole number",
    ),
    (
        {
            "type": "required_input_missing",
            "message": "Required input is missing",
            "details": "image",
            "extra_info": {"input_name": "image"},
        },
        "image (IMAGE) is missing; connect it",
    ),
    (
        {
            "type": "return_type_mismatch",
            "message": "Return type mismatch between linked nodes",
            "details": "image, received_type(MASK) mismatch input_type(IMAGE)",
            "extra_info": {"input_name": "image", "received_type": "MASK", "linked_node": ["1", 1]},
        },
        "image takes IMAGE, but is linked to MASK; connect IMAGE instead",
    ),
    (
        {
            "type": "custom_validation_failed",
            "message": "Custom validation failed for node",
            "details": "image - it is\nno picture - at all",
            "extra_info": {"input_name": "image"},
        },
        "it is no picture - at all",
    ),
    (
        {
            "type": "exception_during_validation",
            "message": "Exception when validating node",
            "details": "list index\nout of range",
            "extra_info": {},
        },
        "Exception when validating node: list index out of range",
    ),
]


@pytest.mark.parametrize(("error", "sentence"), COMPLAINTS, ids=[error["type"] for error, _ in COMPLAINTS])
def test_what_the_server_refuses_is_one_sentence_and_status_2(run, server, capsys, error, sentence):
    complaints = {"2": {"class_type": "ImageScale", "dependent_outputs": ["3"], "errors": [error, error]}}
    server.refusal = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": complaints,
    }
    assert run() == 2
    assert lines(capsys) == [f'sd2: node 2 "Scale": {sentence}']


def test_what_it_says_of_the_whole_workflow_is_status_2(run, server, capsys):
    server.refusal = {"error": {"message": "Prompt has no outputs", "details": ""}, "node_errors": {}}
    assert run() == 2
    assert lines(capsys) == ["sd2: Prompt has no outputs"]


def test_a_workflow_it_would_run_in_part_is_withdrawn(run, server, capsys):
    server.warnings = {"2": {"class_type": "ImageScale", "errors": [COMPLAINTS[0][0]]}}
    assert run() == 2
    assert 'node 2 "Scale": width is -1' in lines(capsys)[0]
    job = server.jobs[0]["prompt_id"]
    assert server.posted == [("/queue", {"delete": [job]}), ("/interrupt", {"prompt_id": job})]


FAILED = {"node_id": "2", "node_type": "ImageScale", "exception_message": "it is\ntoo large\n"}


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (("execution_error", FAILED), 'node 2 "Scale" failed: it is too large'),
        (("execution_error", {**FAILED, "node_id": "2.0.1"}), "ImageScale failed: it is too large"),
        (("execution_interrupted", {"node_id": "2"}), "interrupted on the server"),
    ],
)
def test_a_node_that_fails_is_one_sentence_and_status_1(run, server, folder, capsys, failure, said):
    server.failure, server.messages = failure, [("executing", {"node": None})]
    assert run() == 1
    assert lines(capsys) == [f"sd2: {said}"]
    assert not (folder / "output").exists()


def test_text_is_shown(server, capsys):
    data = graph.from_json(scaling(), LIBRARY).prompt
    write(data | {"9": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}, "_meta": {"title": "Look"}}})
    assert main(["run", "w.json", "--server", server.url]) == 0
    assert "Look: said" in lines(capsys)


def test_previews_have_their_folder(run, server, folder, capsys):
    server.files["temp", "", "ComfyUI_temp_abcde_00007_.png"] = b"preview"
    file = {"type": "temp", "subfolder": "", "filename": "ComfyUI_temp_abcde_00007_.png"}
    server.save = lambda job, node: {"images": [file], "animated": [False], "own": [{"other": 1}]}
    assert run() == 0
    assert capsys.readouterr().out == "output/preview/ComfyUI_temp_00001_.png\n"
    assert (folder / "output" / "preview" / "ComfyUI_temp_00001_.png").read_bytes() == b"preview"


def test_ctrl_c_takes_the_job_back(run, server, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("sd2_family.headless.cli.Bars.report", stop)
    assert run() == 130
    assert lines(capsys)[-1] == "sd2: interrupted"
    job = server.jobs[0]["prompt_id"]
    assert server.posted == [("/queue", {"delete": [job]}), ("/interrupt", {"prompt_id": job})]


def test_silence_is_waited_out_while_the_job_is_queued(run, server, monkeypatch, capsys):
    monkeypatch.setattr("sd2_family.headless.server.SILENCE", 0.05)
    monkeypatch.setattr("sd2_family.headless.server.uuid4", lambda: FixedId())
    server.silent, server.queued = True, ["job"]
    assert run() == 0
    assert capsys.readouterr().out == "output/big_00001_.png\n"


class FixedId:
    hex = "client"

    def __str__(self):
        return "job"


def test_a_job_taken_off_the_queue_is_status_1(run, server, monkeypatch, capsys):
    monkeypatch.setattr("sd2_family.headless.server.SILENCE", 0.05)
    server.work = lambda job: None
    assert run() == 1
    assert lines(capsys) == ["sd2: the job was removed from the server's queue"]


def test_a_lost_connection_is_status_1(run, server, capsys):
    server.work = lambda job: server.listener.write(b"\x88\x00")  # the frame that closes a websocket
    assert run() == 1
    assert (
        lines(capsys)[-1]
        == f"sd2: ConnectionError: the connection to {server.url} was lost while the workflow ran; check the server"
    )


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:9"])
def test_no_server_there_is_status_2(address, capsys):
    assert main(["run", "w.json", "--server", address]) == 2
    (line,) = lines(capsys)
    assert line == "sd2: no ComfyUI server answers at http://127.0.0.1:9; start one (comfy launch) or correct --server"


def test_another_server_is_status_2(server, capsys):
    assert main(["run", "w.json", "--server", f"{server.url}/elsewhere"]) == 2
    assert "no ComfyUI server answers at" in lines(capsys)[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "ftp://host"], "--server: ftp://host is not a server address; write http://HOST:PORT"),
        (["--server", "host", "--comfyui"], "--comfyui: not allowed with argument --server"),
        (["--comfyui", "w.json"], "--comfyui: w.json is not a folder; check the path"),
    ],
)
def test_bad_arguments_are_status_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "w.json", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_server_has_its_own_models(run, capsys):
    assert run("--models-dir", ".") == 2
    assert "--models-dir is not for --server, which has its own models folder" in lines(capsys)[0]


def test_without_comfy_cli_it_says_what_to_install(server, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "comfy_cli.workflow_to_api", None)
    assert main(["run", "w.json", "--server", server.url]) == 2
    assert lines(capsys) == ["sd2: reading a canvas needs comfy-cli; run pip install comfy-cli"]
    monkeypatch.delitem(sys.modules, "sd2_family.headless.server")
    monkeypatch.setitem(sys.modules, "websocket", None)
    assert main(["run", "w.json", "--server", "host"]) == 2
    assert lines(capsys) == ["sd2: --server needs websocket, which comes with comfy-cli; run pip install comfy-cli"]
