"""The `sd2` command: run ComfyUI workflows, with or without a ComfyUI server, and inspect checkpoints.

Commands import torch and the nodes only when they need them, so that --help and --version are fast.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

    from .execute import Executor
    from .server import Server

Commands = Any  # argparse has no public name for it
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

RUN_HELP = """\
Run a workflow saved from ComfyUI (UI or API format) or embedded in an image. The whole workflow is checked first, and
all errors are listed together. Images are written as PNG with the workflow embedded, so that dragging one into ComfyUI
opens it. Their paths are printed to stdout, one per line. As on the canvas, {a|b} in a prompt takes one of the two,
chosen by the workflow's seeds, and %date:yyyy-MM-dd% and %Node.widget% in a filename_prefix are replaced.
"""
RUN_EXAMPLES = """\
examples:
  sd2 run workflows/inpaint.json
  sd2 run inpaint.json --set "Prompt.text=a brick wall" --set Sampler.seed=7 --output-dir results
  sd2 run inpaint.json --set Checkpoint.ckpt_name=512-inpainting-ema.safetensors --models-dir ~/ComfyUI/models
  sd2 run results/ComfyUI_00001_.png --set Sampler.steps=50
  sd2 run inpaint.json --server http://127.0.0.1:8188
  sd2 run controlnet.json --comfyui ~/ComfyUI

exit status: 0 success, 1 a node failed, 2 the workflow, a file or an argument is invalid
"""
INSPECT_HELP = """\
Load a checkpoint file or a diffusers folder and show what it is: kind, prediction type and how it was determined,
parts with sizes and dtypes, what is missing or not used, metadata. A file that cannot be used is refused here as well.
"""
INSPECT_EXAMPLES = """\
examples:
  sd2 inspect 512-inpainting-ema.safetensors
  sd2 inspect ~/ComfyUI/models/checkpoints/768-v-ema.ckpt
  sd2 inspect ~/ComfyUI/models/diffusers/stable-diffusion-2-1
"""
NODES_HELP = """\
List the node types that sd2 run knows without a server, by category. With --json, describe them as a ComfyUI server
does at /object_info, which is what comfy-cli and other tools that write workflows read.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `sd2` command and return its exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="sd2: %(message)s")
    try:
        status: int = arguments.command(arguments)
    except KeyboardInterrupt:
        _report(["interrupted"])
        status = INTERRUPTED
    except ValueError as error:
        _report(getattr(error, "problems", [str(error)]))
        status = BAD_INPUT
    except Exception as error:
        _report([f"{type(error).__name__}: {error}"])
        status = FAILED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sd2",
        description="Run the Stable Diffusion 2 family from the command line.",
        epilog="Run sd2 COMMAND --help for details.",
    )
    parser.add_argument("--version", action="version", version=f"sd2-family {version('sd2-family')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_inspect(commands)
    _add_nodes(commands)
    return parser


def _add_run(commands: Commands) -> None:
    run = commands.add_parser(
        "run",
        help="run a workflow",
        description=RUN_HELP,
        epilog=RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "workflow", type=_file, metavar="WORKFLOW", help="workflow .json, or an image with an embedded workflow"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="NODE.INPUT=VALUE",
        help="set an input before running; NODE is a node id or title; repeatable",
    )
    run.add_argument(
        "--input-dir", type=_folder, metavar="DIR", help="folder for Load Image (default: the workflow's folder)"
    )
    run.add_argument("--output-dir", type=_path, metavar="DIR", help="folder for saved images (default: ./output)")
    where = run.add_mutually_exclusive_group()
    where.add_argument(
        "--server",
        type=_url,
        metavar="URL",
        help="run on this ComfyUI server: upload the input images, queue the workflow, download the results",
    )
    where.add_argument(
        "--comfyui",
        type=_folder,
        nargs="?",
        const=True,
        metavar="DIR",
        help="start the ComfyUI in this folder (default: the one that comfy-cli uses), run the workflow there with "
        "all its nodes and models, and stop it",
    )
    _add_models_dir(run)
    run.set_defaults(command=_run)


def _add_inspect(commands: Commands) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="show what a checkpoint contains",
        description=INSPECT_HELP,
        epilog=INSPECT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument(
        "file", metavar="FILE", help="checkpoint file or diffusers folder: a path, or a name in the models folder"
    )
    _add_models_dir(inspect)
    inspect.set_defaults(command=_inspect)


def _add_nodes(commands: Commands) -> None:
    nodes = commands.add_parser(
        "nodes",
        help="list the node types",
        description=NODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    nodes.add_argument("--json", action="store_true", help="print /object_info")
    _add_models_dir(nodes)
    nodes.set_defaults(command=_nodes)


def _add_models_dir(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--models-dir",
        type=_folder,
        metavar="DIR",
        help="models folder with ComfyUI's layout (default: SD2_MODELS_DIR, else only the bundled models)",
    )


def _url(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    if not url.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text} is not a server address; write http://HOST:PORT")
    return url.rstrip("/")


def _path(text: str) -> Path:
    return Path(text).absolute()


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} does not exist; check the path")
    return _path(text)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder; check the path")
    return _path(text)


def _run(arguments: argparse.Namespace) -> int:
    from ..backends import folders
    from ..pipeline.progress import reporting

    if arguments.server and arguments.models_dir:
        raise ValueError("--models-dir is not for --server, which has its own models folder; leave one of them out")
    chosen = folders.Folders(
        models=arguments.models_dir,
        input=arguments.input_dir or arguments.workflow.parent,
        output=arguments.output_dir,
    )
    bars = Bars()
    try:
        with folders.using(chosen), reporting(bars.report):
            return _run_workflow(arguments, bars)
    finally:
        bars.close()


def _run_workflow(arguments: argparse.Namespace, bars: Bars) -> int:
    from ..backends.folders import output_dir
    from .execute import NodeError
    from .graph import title_of
    from .overrides import set_value

    try:
        with _engine(arguments, bars) as engine:
            workflow = engine.read(arguments.workflow)
            for setting in arguments.settings:
                set_value(workflow, setting, engine.library)
            engine.check(workflow)
            for node_id, shown in engine.run(workflow):
                bars.close()
                _show(title_of(workflow.prompt[node_id]), shown, output_dir())
    except NodeError as error:
        bars.close()
        _report([str(error)])
        return BAD_INPUT if isinstance(error.__cause__, ValueError) else FAILED  # nodes raise ValueError for bad input
    return DONE


@contextmanager
def _engine(arguments: argparse.Namespace, bars: Bars) -> Iterator[Executor | Server]:
    """Yield what runs workflows: this process, a ComfyUI server, or a ComfyUI that runs as long as the block."""
    if arguments.server is None and arguments.comfyui is None:
        from .execute import Executor
        from .library import LIBRARY

        yield Executor(LIBRARY, started=bars.start)
        return
    try:
        from .comfyui_process import comfyui
        from .server import Server
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{'--comfyui' if arguments.server is None else '--server'} needs {error.name}, which comes with "
            "comfy-cli; run pip install comfy-cli"
        ) from None
    if arguments.server is not None:
        yield Server(arguments.server, started=bars.start, progress=bars.report)
        return
    with comfyui(
        None if arguments.comfyui is True else arguments.comfyui, bars.start, bars.report, bars.wait
    ) as server:
        yield server


def _inspect(arguments: argparse.Namespace) -> int:
    from ..backends import folders
    from ..models import checkpoint

    here = Path(arguments.file)
    with folders.using(folders.Folders(models=arguments.models_dir)):
        path = here if here.exists() else folders.resolve_model("checkpoints", arguments.file)
    report = checkpoint.inspect(path)
    lines = [f"{key}: {shorten(value, 160)}" for key, value in report.metadata.items()]
    sys.stdout.write("\n".join([str(report), *lines]) + "\n")
    return DONE


def _nodes(arguments: argparse.Namespace) -> int:
    from ..backends import folders
    from .library import LIBRARY

    with folders.using(folders.Folders(models=arguments.models_dir)):
        described = LIBRARY.object_info
    if arguments.json:
        lines = [json.dumps(described, indent=2)]
    else:
        rows = sorted((entry["category"], name, entry["display_name"]) for name, entry in described.items())
        wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{category:{wide[0]}}  {name:{wide[1]}}  {display}" for category, name, display in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def _show(title: str, shown: dict[str, Any], output_dir: Path) -> None:
    """Print an output node's results: image paths to stdout, text to stderr."""
    for image in shown.get("images", ()):
        path = output_dir / image["subfolder"] / image["filename"]
        sys.stdout.write(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}\n")
        sys.stdout.flush()
    for text in shown.get("text", ()):
        sys.stderr.write(f"{title}: {text}\n")


def _report(problems: Sequence[str]) -> None:
    lines = problems if len(problems) == 1 else [f"{len(problems)} problems:", *problems]
    sys.stderr.write("sd2: " + "\n  ".join(lines) + "\n")


class Bars:
    """A progress bar for each node that reports steps, under the node's title."""

    def __init__(self) -> None:
        self.title = ""
        self.bar: tqdm[Any] | None = None

    def start(self, title: str) -> None:
        self.close()
        self.title = title

    def report(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self.bar is None or self.bar.total != total or done < self.bar.n:
            self.close()
            self.bar = tqdm(total=total, desc=self.title, dynamic_ncols=True)
        self.bar.update(done - self.bar.n)

    def wait(self, line: str) -> None:
        """Show how long ComfyUI has been starting, and the last line of its log."""
        from tqdm import tqdm

        if self.bar is None:
            self.bar = tqdm(bar_format="Starting ComfyUI [{elapsed}] {desc}", dynamic_ncols=True, mininterval=1)
        self.bar.set_description_str(shorten(line, 80), refresh=False)
        self.bar.update(0)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None
