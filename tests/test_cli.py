"""The sd2 command: exit status, messages, and the pictures it writes."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from helpers import scaling, write
from PIL import Image
from sd2_family.headless import graph
from sd2_family.headless.cli import Bars, main
from sd2_family.headless.image_files import image_text
from sd2_family.headless.library import LIBRARY
from sd2_family.pipeline.pil import load
from tiny import write_checkpoint


@pytest.fixture(autouse=True)
def folder(scaling_folder):
    return scaling_folder


def test_run_writes_a_picture_and_names_it(folder, capsys):
    assert main(["run", "w.json"]) == 0
    said = capsys.readouterr()
    assert said.out == "output/big_00001_.png\n"
    assert "Traceback" not in said.err
    image, _ = load(folder / "output" / "big_00001_.png")
    assert torch.equal(image, load(folder / "in.png")[0].repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_the_picture_opens_as_the_workflow_that_made_it(folder):
    main(["run", "w.json"])
    text = image_text(folder / "output" / "big_00001_.png")
    assert json.loads(text["workflow"]) == scaling()
    assert json.loads(text["prompt"]) == graph.from_json(scaling(), LIBRARY).prompt


def test_the_picture_opens_with_what_was_set(folder):
    assert main(["run", "w.json", "--set", "Scale.width=24", "--set", "3.filename_prefix=a/b"]) == 0
    path = folder / "output" / "a" / "b_00001_.png"
    assert load(path)[0].shape == (1, 24, 24, 3)
    embedded = json.loads(image_text(path)["workflow"])
    assert embedded["nodes"][1]["widgets_values"] == ["nearest-exact", 24, 0, "disabled"]
    assert embedded["nodes"][2]["widgets_values"] == ["a/b"]


def test_a_picture_runs_again(folder, capsys):
    main(["run", "w.json"])
    made = (folder / "output" / "big_00001_.png").read_bytes()
    assert main(["run", "output/big_00001_.png", "--input-dir", "."]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "output/big_00002_.png"
    assert (folder / "output" / "big_00002_.png").read_bytes() == made


def test_api_format_runs_and_embeds_no_canvas(folder):
    write(graph.from_json(scaling(), LIBRARY).prompt)
    assert main(["run", "w.json"]) == 0
    assert set(image_text(folder / "output" / "big_00001_.png")) == {"prompt"}


def test_folders_can_be_chosen(folder, capsys):
    (folder / "elsewhere").mkdir()
    (folder / "in.png").rename(folder / "elsewhere" / "in.png")
    assert main(["run", "w.json", "--input-dir", "elsewhere", "--output-dir", "made/here/../there"]) == 0
    assert (folder / "made" / "there" / "big_00001_.png").is_file()


def test_pictures_are_looked_for_beside_the_workflow(folder):
    (folder / "beside").mkdir()
    for name in ("in.png", "w.json"):
        (folder / name).rename(folder / "beside" / name)
    assert main(["run", "beside/w.json"]) == 0


def test_everything_wrong_is_reported_together_and_nothing_runs(folder, capsys):
    data = scaling()
    data["nodes"][0]["widgets_values"][0] = "../in.png"
    data["nodes"][1]["widgets_values"][0] = "magic"
    data["nodes"].append({"id": 4, "type": "Unknown", "inputs": [{"name": "image", "type": "IMAGE", "link": 1}]})
    write(data)
    assert main(["run", "w.json", "--set", "Scale.depth=1", "--set", "Scale.width=-1"]) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert lines[0] == "sd2: 5 problems:"
    for line, words in zip(
        lines[1:],
        (
            "--set Scale.depth=1: node 2 \"Scale\" has no widget 'depth'; it has upscale_method, width",
            "node 1 \"Load Image\": '../in.png' is outside",
            "node 2 \"Scale\": upscale_method is 'magic'; choose one of nearest-exact",
            'node 2 "Scale": width is -1; enter a value from 0 to 16384',
            'node 4 "Unknown": node type Unknown needs ComfyUI',
        ),
        strict=True,
    ):
        assert line.startswith(f"  {words}")
    assert said.out == ""
    assert not (folder / "output").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "in.png"], "in.png contains no workflow"),
        (["run", "w.json", "--set", "LoadImage"], "--set LoadImage: write NODE.INPUT=VALUE"),
        (["run", "w.json", "--set", "Load Image.image=none.png"], "'none.png' is not in the input folder"),
        (["run", "w.json", "--set", "3.filename_prefix=../a"], "'../a' is outside"),
        (["inspect", "none.safetensors"], "none.safetensors is not in"),
        (["inspect", "w.json"], "w.json"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, said, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sd2: ")
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "arguments are required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "arguments are required: WORKFLOW"),
        (["run", "w.json", "--set"], "expected one argument"),
        (["run", "none.json"], "none.json does not exist"),
        (["run", "w.json", "--input-dir", "nowhere"], "--input-dir: nowhere is not a folder"),
        (["run", "w.json", "--models-dir", "w.json"], "--models-dir: w.json is not a folder"),
    ],
)
def test_bad_arguments_are_status_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_that_a_node_finds_bad_is_one_line_and_status_2(folder, capsys):
    Image.effect_noise((64, 64), 50).save("in.png")
    data = (folder / "in.png").read_bytes()
    (folder / "in.png").write_bytes(data[: len(data) // 2])  # its header is whole, so only reading it fails
    assert main(["run", "w.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('sd2: node 1 "Load Image" failed: ')
    assert "damaged" in line
    assert not (folder / "output").exists()


def test_a_picture_that_cannot_be_written_is_status_1(folder, capsys):
    (folder / "output").write_text("a file in the way")
    assert main(["run", "w.json"]) == 1
    assert 'node 3 "Save Image" failed' in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (MemoryError("all of it"), 1)])
def test_no_traceback_whatever_happens(error, status, monkeypatch, capsys):
    def stop(*args):
        raise error

    monkeypatch.setattr("sd2_family.headless.graph.read", stop)
    assert main(["run", "w.json"]) == status
    said = capsys.readouterr().err
    assert said.startswith("sd2: ")
    assert "Traceback" not in said


def test_the_command_itself_exits_with_the_status():
    code = "import sys; from sd2_family.headless.cli import main; sys.exit(main())"
    for arguments, status in ((["--version"], 0), (["run", "none.json"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == status
        assert "Traceback" not in done.stderr


def test_version_and_help(capsys):
    for arguments, words in (
        (["--version"], f"sd2-family {version('sd2-family')}"),
        (["--help"], "inspect"),
        (["run", "--help"], "--set Sampler.seed=7"),
        (["inspect", "--help"], "sd2 inspect 512-inpainting-ema.safetensors"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert words in capsys.readouterr().out


def test_version_and_help_do_not_wait_for_torch():
    code = "import sys; from sd2_family.headless import cli; cli._parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bar_for_each_run_of_steps_under_the_nodes_title(capsys):
    bars = Bars()
    bars.start("Sampler")
    for done in range(4):
        bars.report(done, 3)
    bars.report(0, 3)
    bars.start("Decode")
    bars.report(1, 2)
    bars.close()
    said = capsys.readouterr().err
    assert said.count("Sampler: 100%") == 1
    assert said.count("3/3") == 1
    assert "Sampler:   0%" in said
    assert "Decode:  50%" in said


def test_inspect_says_what_a_checkpoint_is(folder, capsys):
    (folder / "checkpoints").mkdir()
    write_checkpoint(folder / "checkpoints" / "a.safetensors", "v2-inpaint", metadata={"modelspec.title": "A Title"})
    for arguments in (["a.safetensors", "--models-dir", "."], ["checkpoints/a.safetensors"]):
        assert main(["inspect", *arguments]) == 0
        said = capsys.readouterr().out
        for words in ("v2-inpaint", "epsilon", "float32", "A Title"):
            assert words in said


def test_previews_are_kept_apart(folder, capsys):
    data = graph.from_json(scaling(), LIBRARY).prompt
    write(data | {"9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})
    assert main(["run", "w.json"]) == 0
    assert capsys.readouterr().out.split() == ["output/big_00001_.png", "output/preview/ComfyUI_temp_00001_.png"]


def test_preview_any_prints_its_text(capsys):
    data = graph.from_json(scaling(), LIBRARY).prompt
    write(data | {"9": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}, "_meta": {"title": "Look"}}})
    assert main(["run", "w.json"]) == 0
    assert "Look: tensor(" in capsys.readouterr().err
