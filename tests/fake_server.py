"""A ComfyUI server in this process: the routes that `sd2 run --server` uses, with no models behind them.

It says of its nodes what ours and the stand-ins say, queues a prompt, tells of every node over the websocket, and
answers each SaveImage with a picture of its own. Tests change `refusal`, `failure` and the rest to make it misbehave.
"""

import base64
import hashlib
import io
import json
import struct
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sd2_family.headless.library import LIBRARY


def described(name, node_class):
    """A node's entry in /object_info."""
    return {
        "input": json.loads(json.dumps(node_class.INPUT_TYPES())),
        "output": list(node_class.RETURN_TYPES),
        "output_node": getattr(node_class, "OUTPUT_NODE", False),
        "display_name": LIBRARY.names.get(name, name),
    }


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.object_info = {name: described(name, node_class) for name, node_class in LIBRARY.classes.items()}
        self.files = {}  # (type, subfolder, filename) -> content
        self.jobs = []  # what was posted to /prompt
        self.posted = []  # (path, content) of everything else
        self.history = {}
        self.listener = None
        self.refusal = None  # answers /prompt with status 400
        self.warnings = {}  # node_errors beside a job that is queued all the same
        self.failure = None  # what the history says of the job: (message, data)
        self.messages = None  # what is sent over the websocket in place of the usual
        self.silent = False  # the job ends without a word
        self.queued = []  # ids that /queue shows
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def work(self, job):
        prompt_id, prompt = job["prompt_id"], job["prompt"]
        outputs = {
            node_id: self.save(job, node) for node_id, node in prompt.items() if node["class_type"] == "SaveImage"
        }
        outputs |= {
            node_id: {"text": ["said"]} for node_id, node in prompt.items() if node["class_type"] == "PreviewAny"
        }
        self.history[prompt_id] = {
            "outputs": outputs,
            "meta": {node_id: {"node_id": node_id, "display_node": node_id} for node_id in outputs},
            "status": {"messages": [["execution_start", {}], *([self.failure] if self.failure else [])]},
        }
        if self.silent:
            return
        self.send(b"\0preview", binary=True)
        self.tell("status", {"status": {}})
        for kind, data in self.usual(prompt) if self.messages is None else self.messages:
            self.tell(kind, {"prompt_id": prompt_id, **data})

    def usual(self, prompt):
        for node_id in prompt:
            yield "executing", {"node": node_id, "display_node": node_id}
            yield "progress", {"node": node_id, "value": 1, "max": 2}
            yield "progress", {"node": node_id, "value": 2, "max": 2, "prompt_id": "another job"}
        yield "executing", {"node": None}

    def save(self, job, node):
        """One picture, numbered high, as on a server that has made many; the canvas in it."""
        chunks = PngInfo()
        for key, value in {"prompt": job["prompt"], **job["extra_data"].get("extra_pnginfo", {})}.items():
            chunks.add_text(key, json.dumps(value))
        content = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(content, "PNG", pnginfo=chunks)
        folder, _, name = node["inputs"]["filename_prefix"].rpartition("/")
        key = ("output", folder, f"{name}_00041_.png")
        self.files[key] = content.getvalue()
        return {"images": [dict(zip(("type", "subfolder", "filename"), key, strict=True))]}

    def tell(self, kind, data):
        self.send(json.dumps({"type": kind, "data": data}).encode())

    def send(self, payload, *, binary=False):
        size = struct.pack(">BH", 126, len(payload)) if len(payload) > 125 else bytes([len(payload)])
        self.listener.write(bytes([0x82 if binary else 0x81]) + size + payload)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content, status=200):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        address, fake = urlsplit(self.path), self.server
        query = dict(parse_qsl(address.query))
        if address.path == "/ws":
            self.listen()
        elif address.path == "/view":
            file = fake.files.get(tuple(query.get(key, "") for key in ("type", "subfolder", "filename")))
            self.answer(b"" if file is None else file, 404 if file is None else 200)
        elif address.path.startswith("/history/"):
            job = address.path.rpartition("/")[2]
            self.answer({job: fake.history[job]} if job in fake.history else {})
        elif address.path == "/queue":
            self.answer({"queue_running": [], "queue_pending": [[0, job] for job in fake.queued]})
            fake.queued = []
        elif address.path == "/object_info":
            self.answer(fake.object_info)
        else:
            self.answer({}, 404)

    do_HEAD = do_GET

    def do_POST(self):
        body, fake = self.rfile.read(int(self.headers["Content-Length"])), self.server
        if self.path == "/upload/image":
            self.answer(self.upload(body))
            return
        content = json.loads(body)
        if self.path != "/prompt":
            fake.posted.append((self.path, content))
            self.answer({})
        elif fake.refusal:
            self.answer(fake.refusal, 400)
        else:
            fake.jobs.append(content)
            self.answer({"prompt_id": content["prompt_id"], "node_errors": fake.warnings})
            fake.work(content)

    def upload(self, body):
        """Stored under the name given, or under another where a different picture has it."""
        header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {
            part.get_param("name", header="content-disposition"): part
            for part in message_from_bytes(header + body).get_payload()
        }
        content = parts["image"].get_payload(decode=True)
        folder = parts["subfolder"].get_payload() if "subfolder" in parts else ""
        name, files = parts["image"].get_filename(), self.server.files
        stem, dot, suffix = name.rpartition(".")
        number = 0
        while files.get(("input", folder, name), content) != content:
            number += 1
            name = f"{stem} ({number}){dot}{suffix}"
        files["input", folder, name] = content
        return {"name": name, "subfolder": folder, "type": "input"}

    def listen(self):
        """The websocket's handshake (RFC 6455), after which the connection is the server's to write to."""
        magic = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode())
        self.server.listener = self.wfile  # before the client knows, and queues its job
        self.end_headers()
        self.rfile.read(1)  # until the client leaves
        self.close_connection = True
