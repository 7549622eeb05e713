"""Run workflows on a ComfyUI that is started for them and stopped after them.

comfy-cli says where ComfyUI is, which Python runs it and with which options (`comfy set-default`); its own `comfy
launch` leaves the server running, and on a fixed port.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import requests
from comfy_cli import constants
from comfy_cli.config_manager import ConfigManager
from comfy_cli.resolve_python import resolve_workspace_python
from comfy_cli.workspace_manager import WorkspaceManager, WorkspaceType

from ..backends import folders
from .execute import NodeError
from .server import Server

START, STOP = 600, 10  # seconds to answer, and to end when asked to
TAIL = 4  # lines of the log in an error
ACCELERATOR = (  # torch.accelerator is newer than the oldest torch that ComfyUI runs on
    "import torch; "
    "print(getattr(torch, 'accelerator', torch.cuda).is_available() or torch.backends.mps.is_available())"
)
COLORS = re.compile(r"\x1b\[[\d;]*m")
DEVICES = ("--cpu", "--directml")  # options that say where to compute


class OwnServer(Server):
    """A ComfyUI whose output folder is ours."""

    def _fetch(self, file: Mapping[str, str]) -> dict[str, str]:
        return dict(file) if file["type"] == "output" else super()._fetch(file)


@contextmanager
def comfyui(
    folder: Path | None,
    started: Callable[[str], None] = lambda title: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    waiting: Callable[[str], None] = lambda line: None,
) -> Iterator[Server]:
    """Start the ComfyUI in `folder`, or the one that comfy-cli knows, and stop it when the block ends in any way.

    started, progress: as in `Server`. waiting: called with the last line of ComfyUI's log until it answers. Raises
    ValueError where there is no ComfyUI or no Python to run it, and NodeError if it stops by itself.
    """
    place, options = _workspace(folder)
    python = _python(place)
    options += _device(python, place, options)
    with TemporaryDirectory(prefix="sd2-comfyui-") as temporary, _terminable():
        log = Path(temporary) / "log.txt"
        port = _free_port()
        command = [str(python), "main.py", *options, *_own_options(port, Path(temporary))]
        process = _start(command, place, log)
        try:
            _wait(process, port, log, waiting)
            yield OwnServer(f"http://127.0.0.1:{port}", started, progress)
        except (ConnectionError, _NoAnswer) as error:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)  # it may just be dying
            status = process.poll()
            what = error if status is None else f"it ended with exit status {status}"
            raise NodeError(f"ComfyUI in {place} failed: {what}; the last lines of its log: {_tail(log)}") from None
        finally:
            _stop(process)


class _NoAnswer(Exception):
    """ComfyUI does not answer."""


def _workspace(folder: Path | None) -> tuple[Path, list[str]]:
    """Return the folder with ComfyUI's main.py, and the options that comfy-cli would start it with."""
    options: list[str] = []
    if folder is None:
        found, kind = WorkspaceManager().get_workspace_path()
        folder = Path(found)
        if kind is WorkspaceType.DEFAULT:
            options = (ConfigManager().get(constants.CONFIG_KEY_DEFAULT_LAUNCH_EXTRAS) or "").split()
    for place in (folder, folder / "ComfyUI"):
        if (place / "main.py").is_file():
            return place, options
    raise ValueError(
        f"there is no ComfyUI in {folder}; install one (comfy install), or name its folder: --comfyui DIR"
    )


def _python(place: Path) -> Path:
    """Return the Python of a ComfyUI: its own virtual environment's, that of the portable build, or comfy-cli's."""
    inside = Path("Scripts", "python.exe") if sys.platform == "win32" else Path("bin", "python")
    own = [place / ".venv" / inside, place / "venv" / inside, place.parent / "python_embeded" / "python.exe"]
    return next((python for python in own if python.is_file()), Path(resolve_workspace_python(str(place))))


def _device(python: Path, place: Path, options: Sequence[str]) -> list[str]:
    """Return --cpu for a torch without an accelerator, where ComfyUI does not start otherwise."""
    if any(option in DEVICES for option in options):
        return []
    asked = subprocess.run([python, "-c", ACCELERATOR], capture_output=True, text=True, check=False)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            f"{python} cannot run the ComfyUI in {place} ({reason}); install ComfyUI's requirements there, or in a "
            f"virtual environment {place / '.venv'}"
        )
    return [] if asked.stdout.strip() == "True" else ["--cpu"]


def _own_options(port: int, temporary: Path) -> list[str]:
    """Return the options that keep this ComfyUI apart from another one that runs from the same folder."""
    options = ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    options += ["--output-directory", str(folders.output_dir()), "--temp-directory", str(temporary)]
    options += ["--database-url", "sqlite:///:memory:"]
    models = folders.models_dir()
    if models is not None:
        kinds = {path.name: path.name for path in models.iterdir() if path.is_dir()}
        paths = temporary / "models.yaml"  # JSON is YAML
        paths.write_text(json.dumps({"sd2": {"base_path": str(models.absolute()), **kinds}}))
        options += ["--extra-model-paths-config", str(paths)]
    return options


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _start(command: Sequence[str], place: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own, so that Ctrl-C reaches it only through `_stop`."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # Windows has no sessions
        )


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, waiting: Callable[[str], None]) -> None:
    """Return once the server answers; _NoAnswer if it ends or takes too long."""
    deadline = time.monotonic() + START
    while process.poll() is None:
        with suppress(requests.RequestException):
            requests.get(f"http://127.0.0.1:{port}/queue", timeout=START)
            return
        if time.monotonic() > deadline:
            raise _NoAnswer(f"it did not answer within {START} seconds")
        waiting(_tail(log, 1))
        time.sleep(0.2)
    raise _NoAnswer


def _tail(log: Path, count: int = TAIL) -> str:
    lines = [COLORS.sub("", line).strip() for line in log.read_text(errors="replace").splitlines()]
    return " | ".join([line for line in lines if line][-count:]) or "(empty)"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, gently first."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        process.wait()
        return
    try:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(STOP)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat a request to end this process, or a closed terminal, like Ctrl-C while the block runs."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, _interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
