"""Run workflows on a ComfyUI server, through its API queue.

Workflows are converted with the server's /object_info. comfy-cli's `comfy run` neither uploads the images that a
workflow uses nor embeds the canvas in the saved images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
import websocket

from ..backends import folders
from ..pipeline.notices import notice
from . import graph
from .canvas import Prompt
from .canvas_text import fill_in
from .execute import NodeError
from .graph import Library, Workflow, WorkflowError, label, needed, title_of
from .image_files import unfinished
from .inputs import Json, inputs_of
from .overrides import assign
from .packs import pack_of
from .stock.file_nodes import PREVIEWS, next_number, output

CONNECT, ANSWER, SILENCE = 10, 300, 30  # timeouts in seconds; after SILENCE the queue is polled
CANCEL = 3  # of a server that is asked to stop: Ctrl-C must not wait for one that hangs
UPLOADED = "image_upload", "sd2_upload"  # options of inputs whose value is a file in the input folder
ELSEWHERE = (" [output]", " [temp]")  # LoadImage's suffixes for the server's other folders
TEXT = 3  # ComfyUI's BinaryEventTypes.TEXT
COUNTER = re.compile(r"_\d{5,}_?$")  # ComfyUI appends this to a filename_prefix


class Server:
    """Run workflows on the ComfyUI server at `url`; ValueError if it does not answer.

    started: called with each node's title just before it runs. progress: called with (steps done, total steps).
    """

    def __init__(
        self,
        url: str,
        started: Callable[[str], None] = lambda title: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.url = url
        self.started = started
        self.progress = progress
        self.http = requests.Session()
        try:
            self.object_info = self._get("/object_info")
        except (ConnectionError, requests.JSONDecodeError):
            raise ValueError(
                f"no ComfyUI server answers at {url}; start one (comfy launch) or correct --server"
            ) from None
        self.library = Library(
            classes={name: _node_class(name, entry) for name, entry in self.object_info.items()},
            names={name: entry["display_name"] for name, entry in self.object_info.items()},
            described=self.object_info,
        )

    def read(self, path: Path) -> Workflow:
        """Read a workflow from a file, converted with the server's node definitions."""
        return graph.read(path, self.library)

    def check(self, workflow: Workflow) -> None:
        """Upload the input files of `workflow`; raise a WorkflowError if a file is missing or a node is unknown.

        The server checks the rest when the workflow is queued.
        """
        fill_in(workflow, self.library)
        problems = list(workflow.problems)
        uploaded: dict[Path, str] = {}
        running = needed(workflow.prompt, self.library)
        for node_id, node in workflow.prompt.items():
            who = label(workflow.prompt, node_id)
            if node["class_type"] not in self.library.classes:
                pack = pack_of(node["class_type"], workflow.ui)
                install = f"install {pack}" if pack else "install its node pack"
                problems.append(f"{who}: the server has no node type {node['class_type']}; {install} there")
                continue
            for name, file in self._files(node) if node_id in running else ():
                try:
                    assign(workflow, node_id, name, self._upload(file, uploaded), self.library)
                except ValueError as error:
                    problems.append(f"{who}: {error}")
        if problems:
            raise WorkflowError(problems)

    def _files(self, node: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (input, value) for each input-folder file that a node uses."""
        entries = inputs_of(self.library.classes[node["class_type"]]).values()
        named = [
            (entry.name, node["inputs"].get(entry.name))
            for entry in entries
            if any(entry.options.get(flag) for flag in UPLOADED)
        ]
        return [(name, file) for name, file in named if isinstance(file, str) and not file.endswith(ELSEWHERE)]

    def _upload(self, name: str, uploaded: dict[Path, str]) -> str:
        """Upload a local file and return its name on the server, which differs if the name was taken."""
        bare = name.removesuffix(" [input]")
        path = folders.inside(folders.input_dir(), bare)
        where = {"subfolder": Path(bare).parent.as_posix().removeprefix("."), "type": "input"}
        if not path.is_file():
            if self._ask("head", "/view", params={"filename": path.name, **where}, accept=(404,)).ok:
                return name
            raise ValueError(
                f"{name!r} is neither in the input folder {folders.input_dir()} nor on the server; copy it to the "
                "input folder or use --input-dir"
            )
        if path not in uploaded:
            with path.open("rb") as file:
                stored = self._ask("post", "/upload/image", files={"image": (path.name, file)}, data=where).json()
            uploaded[path] = f"{stored['subfolder']}/{stored['name']}".lstrip("/")
        return uploaded[path]

    def run(self, workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
        """Queue a checked workflow, wait for it, and download its results.

        Yields (node id, its UI results) for each output node, with its images saved in the output folder. Raises
        WorkflowError if the server rejects the workflow and NodeError if a node fails; KeyboardInterrupt cancels it.
        """
        client, prompt_id = uuid4().hex, str(uuid4())
        with closing(self._listen(client)) as socket:
            try:
                self._queue(workflow, client, prompt_id)
                self._follow(socket, workflow.prompt, prompt_id)
            except BaseException:
                self._cancel(prompt_id)
                raise
        job = self._get(f"/history/{prompt_id}").get(prompt_id)
        if job is None:
            raise NodeError("the job was removed from the server's queue")
        _raise_failure(job, workflow.prompt)
        # nodes that are no outputs show what they load or compute, such as SD2SampleImage its image
        others = workflow.prompt.keys() - graph.outputs(workflow.prompt, self.library)
        for node_id, shown in job["outputs"].items():
            if node_id in others:
                continue
            files = [file for entries in shown.values() for file in entries if isinstance(file, dict)]
            made = [self._fetch(file) for file in files if file.get("type") in ("output", "temp")]
            yield job["meta"][node_id]["display_node"], {"images": made, "text": shown.get("text", ())}

    def _listen(self, client: str) -> websocket.WebSocket:
        address = f"ws{self.url.removeprefix('http')}/ws?clientId={client}"
        try:
            socket = websocket.create_connection(address, timeout=CONNECT)
        except (OSError, websocket.WebSocketException) as error:
            raise ConnectionError(f"{self.url} refused the websocket connection: {error}") from None
        socket.settimeout(SILENCE)
        return socket

    def _queue(self, workflow: Workflow, client: str, prompt_id: str) -> None:
        extra = {} if workflow.extra_pnginfo is None else {"extra_pnginfo": workflow.extra_pnginfo}
        job = {"prompt": workflow.prompt, "extra_data": extra, "client_id": client, "prompt_id": prompt_id}
        answer = self._ask("post", "/prompt", json=job, accept=(400,)).json()
        problems = [
            f"{label(workflow.prompt, node_id)}: {self._sentence(node['class_type'], error)}"
            for node_id, node in answer["node_errors"].items()
            for error in node["errors"]
        ]
        if not problems and "error" in answer:
            problems = [_one_line(answer["error"])]
        if problems:
            raise WorkflowError(list(dict.fromkeys(problems)))

    def _sentence(self, class_type: str, error: Mapping[str, Any]) -> str:
        """Format one of the server's validation errors, in the words of `check` if it has the same error."""
        extra = error["extra_info"]
        entry = inputs_of(self.library.classes[class_type]).get(extra.get("input_name", ""))
        if error["type"] == "custom_validation_failed" and " - " in error["details"]:
            return _one_line({"message": error["details"].split(" - ", 1)[1]})
        if entry is not None and error["type"] == "required_input_missing":
            return f"{entry.name} ({entry.type}) is missing; {'set it' if entry.widget else 'connect it'}"
        if entry is not None and error["type"] == "return_type_mismatch":
            received = extra["received_type"]
            return f"{entry.name} takes {entry.type}, but is linked to {received}; connect {entry.type} instead"
        if entry is not None and entry.widget and "received_value" in extra:
            try:
                entry.check(entry.convert(extra["received_value"]))
            except ValueError as problem:
                return str(problem)
        return _one_line(error)

    def _follow(self, socket: websocket.WebSocket, prompt: Prompt, prompt_id: str) -> None:
        """Report nodes and steps until the job ends, whether it succeeds or not."""
        while True:
            try:
                message = socket.recv()
            except websocket.WebSocketTimeoutException:
                if self._queued(prompt_id):
                    continue
                return
            except (OSError, websocket.WebSocketException):
                message = ""
            if message == "":
                raise ConnectionError(
                    f"the connection to {self.url} was lost while the workflow ran; check the server"
                )
            if isinstance(message, bytes):
                _say(message, prompt)
                continue
            event = json.loads(message)
            data = event.get("data", {})
            if data.get("prompt_id") != prompt_id:
                continue
            if event["type"] == "progress":
                self.progress(data["value"], data["max"])
            elif event["type"] == "executing" and data["node"] is None:
                return
            elif event["type"] == "executing":
                self.started(title_of(prompt[data["display_node"]]))

    def _queued(self, prompt_id: str) -> bool:
        queue = self._get("/queue")
        return any(item[1] == prompt_id for item in [*queue["queue_running"], *queue["queue_pending"]])

    def _cancel(self, prompt_id: str) -> None:
        with suppress(ConnectionError):
            self._ask("post", "/queue", json={"delete": [prompt_id]}, patience=CANCEL)
            self._ask("post", "/interrupt", json={"prompt_id": prompt_id}, patience=CANCEL)

    def _fetch(self, file: Mapping[str, str]) -> dict[str, str]:
        """Download an output file into the output folder, with the number that SaveImage would use there."""
        name = Path(file["filename"])
        saved = f"{file['subfolder']}/{COUNTER.sub('', name.stem)}".lstrip("/")
        target = folders.inside(folders.output_dir(), saved if file["type"] == "output" else PREVIEWS)
        target.parent.mkdir(parents=True, exist_ok=True)
        path = target.with_name(f"{target.name}_{next_number(target):05}_{name.suffix}")
        where = {key: file[key] for key in ("filename", "subfolder", "type")}
        with unfinished(path) as part:
            part.write_bytes(self._ask("get", "/view", params=where).content)
        return output(path)

    def _get(self, path: str) -> Json:
        return self._ask("get", path).json()

    def _ask(
        self, method: str, path: str, accept: tuple[int, ...] = (), patience: float = ANSWER, **request: Json
    ) -> requests.Response:
        try:
            answer = self.http.request(method, self.url + path, timeout=(min(CONNECT, patience), patience), **request)
        except requests.RequestException:
            raise ConnectionError(f"{self.url} does not answer; check that the server is running") from None
        if not answer.ok and answer.status_code not in accept:
            raise ConnectionError(f"{self.url}{path} returned {answer.status_code} {answer.reason}")
        return answer


def _say(message: bytes, prompt: Prompt) -> None:
    """Log the last line of a text that one of our nodes shows on the canvas; other binary messages are previews.

    The message: its kind and the length of the node's id as big-endian 32-bit numbers, the id, the text.
    """
    kind, length = (int.from_bytes(message[start : start + 4], "big") for start in (0, 4))
    node_id, text = message[8 : 8 + length].decode(errors="replace"), message[8 + length :].decode(errors="replace")
    if kind == TEXT and prompt.get(node_id, {}).get("class_type", "").startswith("SD2"):
        notice(text.rpartition("\n")[2])


def _node_class(name: str, described: Mapping[str, Any]) -> type:
    """Build a class with the INPUT_TYPES and OUTPUT_NODE from /object_info."""
    inputs = classmethod(lambda cls: described["input"])
    return type(name, (), {"INPUT_TYPES": inputs, "OUTPUT_NODE": described.get("output_node", False)})


def _raise_failure(job: Mapping[str, Any], prompt: Prompt) -> None:
    """Raise NodeError if a job in the history failed or was interrupted."""
    messages = dict(job["status"]["messages"])
    if "execution_interrupted" in messages:
        raise NodeError("interrupted on the server")
    if "execution_error" in messages:
        error = messages["execution_error"]
        who = label(prompt, error["node_id"]) if error["node_id"] in prompt else error["node_type"]
        raise NodeError(f"{who} failed: {' '.join(error['exception_message'].split())}")


def _one_line(error: Mapping[str, str]) -> str:
    parts = (error["message"], error.get("details"))
    return " ".join(": ".join(part for part in parts if part).split())
