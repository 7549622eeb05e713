"""`sd2 run --comfyui`, with a main.py that is no ComfyUI but starts the fake server."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from comfy_cli.config_manager import ConfigManager
from helpers import scaling, write
from sd2_family.headless import comfyui_process
from sd2_family.headless.cli import main

TESTS = Path(__file__).parent
SERVE = f"""
import os, subprocess, sys, threading, time
from pathlib import Path

Path("arguments").write_text(chr(10).join(sys.argv[1:]))
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("pids").write_text(f"{{os.getpid()}} {{helper.pid}}")
print("\\x1b[32m[INFO]\\x1b[0m importing", flush=True)
sys.path[:0] = [{str(TESTS)!r}]
import conftest
from fake_server import FakeServer

def option(name):
    return sys.argv[len(sys.argv) - sys.argv[::-1].index(name)]

if "--extra-model-paths-config" in sys.argv:
    Path("models.yaml").write_text(Path(option("--extra-model-paths-config")).read_text())

class Fake(FakeServer):
    def save(self, job, node):
        if Path("die").exists():
            print("out of memory", flush=True)
            os._exit(3)
        shown = super().save(job, node)
        for (kind, folder, name), content in self.files.items():
            if kind == "output":
                path = Path(option("--output-directory"), folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        while Path("hang").exists():
            time.sleep(0.1)
        return shown

Fake(int(option("--port")))
threading.Event().wait()
"""


@pytest.fixture(autouse=True)
def folder(scaling_folder, monkeypatch):
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "SD2_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(comfyui_process, "START", 60)
    monkeypatch.setattr(comfyui_process, "_device", lambda *arguments: [])  # seconds, to import torch
    return scaling_folder


@pytest.fixture
def fake(folder):
    """A folder that looks like ComfyUI."""
    place = folder / "comfy" / "ComfyUI"
    place.mkdir(parents=True)
    for name in ("comfy", "comfy_extras", "comfy_api"):
        (place / name).mkdir()
    (place / "nodes.py").touch()
    (place / "main.py").write_text(SERVE)
    return place


def gone(pid):
    """Whether a process has ended, waiting a little for it."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat")
        if state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def assert_stopped(fake):
    pids = [int(pid) for pid in (fake / "pids").read_text().split()]
    assert all(gone(pid) for pid in pids)


def arguments_of(fake):
    given = (fake / "arguments").read_text().splitlines()
    return {name: given[at + 1] for at, name in enumerate(given[:-1]) if name.startswith("--")}, given


def test_it_starts_runs_and_stops(fake, folder, capsys):
    assert main(["run", "w.json", "--comfyui", "comfy", "--output-dir", "made"]) == 0  # ComfyUI is below it
    said = capsys.readouterr()
    assert said.out == "made/big_00041_.png\n"  # where ComfyUI wrote it, without a copy
    assert [path.name for path in (folder / "made").iterdir()] == ["big_00041_.png"]
    assert "Starting ComfyUI [00:0" in said.err
    assert "Scale:  50%" in said.err
    options, given = arguments_of(fake)
    assert options["--listen"] == "127.0.0.1"
    assert options["--output-directory"] == str(folder / "made")
    assert "--disable-auto-launch" in given
    assert not Path(options["--temp-directory"]).exists()
    assert_stopped(fake)


def test_models_are_added_and_options_of_comfy_cli_kept(fake, folder, monkeypatch):
    (folder / "models" / "checkpoints").mkdir(parents=True)
    defaults = ConfigManager().config["DEFAULT"]
    monkeypatch.setitem(defaults, "default_workspace", str(fake))
    monkeypatch.setitem(defaults, "default_launch_extras", "--cpu  --port 1")
    assert main(["run", "w.json", "--comfyui", "--models-dir", "models"]) == 0
    assert yaml.safe_load((fake / "models.yaml").read_text()) == {
        "sd2": {"base_path": str(folder / "models"), "checkpoints": "checkpoints"}
    }
    options, given = arguments_of(fake)
    assert given[:3] == ["--cpu", "--port", "1"]
    assert options["--port"] != "1"  # the last one counts
    assert_stopped(fake)


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("import nothing_of_this_name", 1, "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("print('\\x1b[31mNo GPU\\x1b[0m'); raise SystemExit(7)", 7, "the last lines of its log: No GPU"),
        ("import os; os._exit(0)", 0, "the last lines of its log: (empty)"),
    ],
)
def test_a_comfyui_that_does_not_start(fake, capsys, code, status, said):
    (fake / "main.py").write_text(code)
    assert main(["run", "w.json", "--comfyui", "comfy"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"sd2: ComfyUI in {fake} failed: it ended with exit status {status}; ")
    assert line.endswith(said)


def test_a_comfyui_that_does_not_answer(fake, capsys, monkeypatch):
    monkeypatch.setattr(comfyui_process, "START", 1)
    (fake / "main.py").write_text(SERVE.split("sys.path[:0]")[0] + "time.sleep(600)")
    assert main(["run", "w.json", "--comfyui", "comfy"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("failed: it did not answer within 1 seconds; the last lines of its log: [INFO] importing")
    assert_stopped(fake)


def test_a_comfyui_that_dies_while_it_works(fake, capsys):
    (fake / "die").touch()
    assert main(["run", "w.json", "--comfyui", "comfy"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "failed: it ended with exit status 3; the last lines of its log: [INFO] importing | out of memory" in line
    assert_stopped(fake)


def test_a_workflow_that_is_refused_stops_it_too(fake, capsys):
    data = scaling()
    data["nodes"][1]["type"] = "NoSuchNode"
    write(data)
    assert main(["run", "w.json", "--comfyui", "comfy"]) == 2
    assert "NoSuchNode" in capsys.readouterr().err.splitlines()[-1]
    assert_stopped(fake)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it(fake, folder, number):
    (fake / "hang").touch()
    run = (
        f"import sys; sys.path[:0] = [{str(TESTS)!r}]; import conftest; from sd2_family.headless.cli import main; "
        "sys.exit(main(['run', 'w.json', '--comfyui', 'comfy']))"
    )
    ours = subprocess.Popen([sys.executable, "-c", run], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(folder.glob("output/*.png")):  # it is at work
        assert time.monotonic() < deadline, ours.stderr.read()
        assert ours.poll() is None, ours.stderr.read()
        time.sleep(0.05)
    ours.send_signal(number)
    _, said = ours.communicate(timeout=30)
    assert ours.returncode == 130
    assert said.endswith("sd2: interrupted\n")
    assert_stopped(fake)


def test_where_there_is_none(folder, capsys):
    assert main(["run", "w.json", "--comfyui", "."]) == 2
    line = capsys.readouterr().err
    assert line == (
        f"sd2: there is no ComfyUI in {folder}; install one (comfy install), or name its folder: --comfyui DIR\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
@pytest.mark.parametrize(
    ("answer", "options"), [("echo False", ["--cpu"]), ("echo True", []), ("echo no torch here >&2; exit 1", None)]
)
@pytest.mark.parametrize("name", [".venv", "venv"])
def test_its_own_python_says_whether_there_is_an_accelerator(fake, monkeypatch, name, answer, options):
    python = fake / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{answer}\n")
    python.chmod(0o755)
    assert comfyui_process._python(fake) == python
    monkeypatch.undo()
    if options is None:
        with pytest.raises(ValueError, match=r"cannot run the ComfyUI in .* \(no torch here\); install"):
            comfyui_process._device(python, fake, [])
    else:
        assert comfyui_process._device(python, fake, []) == options
    assert comfyui_process._device(python, fake, ["--directml"]) == []


def test_without_its_own_python_it_is_comfy_clis(fake, monkeypatch):
    assert comfyui_process._python(fake) == Path(sys.executable)
    monkeypatch.setenv("VIRTUAL_ENV", str(fake / "venv"))
    assert comfyui_process._python(fake) == Path(sys.executable)
