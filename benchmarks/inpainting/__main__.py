"""Measure inpainting on scenes with a known truth, print a Markdown table and draw a contact sheet.

    python -m sd2_family.benchmarks.inpainting --count 40 --sheet sheet.png
    python -m sd2_family.benchmarks.inpainting --comfyui ~/ComfyUI --sets object

With --comfyui or --server, ComfyUI's own inpainting and that of other packs repaints the same cases, as far as the
packs are installed there. Results are kept in --folder: what is there already is measured and not painted again. The
classifier of objects and colors is trained first if the folder has none.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ...training.dataset import SIZE
from ...training.image_sheet import COLUMNS, image_sheet
from ...training.object_classifier import Classifier, load_classifier, recognize
from ...training.progress_bar import progress_bar
from .cases import SETS, Case, Pixels, cases
from .contenders import CONTENDERS, Paint
from .measures import measure, summary, wilson
from .peers import NAMES, missing, painter

if TYPE_CHECKING:  # it needs packages of comfy-cli
    from ...headless.server import Server

Painters = Mapping[str, Callable[[], Paint]]
FOLDER = Path(__file__).parent / "runs"
HEAD = "| cases | n | by | changed outside | seam | ring: shift / error | hole | kept | object | color | s |"
SHADE = 0.5  # of the hole in the sheet
LABEL, FONT = 220, 16  # pixels: the width of the sheet's labels, and their letters


@dataclass(frozen=True)
class Painted:
    """The result of a case, and how long it took."""

    image: Pixels
    seconds: float


@contextmanager
def comfyui(folder: Path | None, url: str | None) -> Iterator[Server | None]:
    """The server at `url`, or that of a ComfyUI which runs as long as the block."""
    if folder is not None:
        from ...headless.comfyui_process import comfyui as process

        with process(folder) as server:
            yield server
    elif url is not None:
        from ...headless.server import Server

        yield Server(url)
    else:
        yield None


def painters(server: Server | None, case: Case) -> Painters:
    """Who can take part, by name; what a peer lacks on the server is reported. case: any."""
    found = dict(CONTENDERS)
    if server is not None:
        lacks = {name: missing(name, case, server) for name in NAMES}
        found.update({name: partial(painter, name, server) for name in NAMES if not lacks[name]})
        sys.stderr.writelines(f"{reason}\n" for reason in lacks.values() if reason)
    return found


def paint(name: str, given: Sequence[Case], folder: Path, by: Painters) -> list[Painted]:
    """Paint the cases, or read what was painted before."""
    brush: Paint | None = None
    results = []
    for index, case in enumerate(progress_bar(given, f"{name}, {given[0].name}")):
        path = folder / name.replace(" ", "_") / f"{case.name.replace(' ', '_')}-{index:03}.png"
        if not path.exists():
            brush = brush or by[name]()
            path.parent.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            image = brush(case)
            note = PngImagePlugin.PngInfo()
            note.add_text("seconds", f"{time.perf_counter() - started:.3f}")
            Image.fromarray(image).save(path, pnginfo=note)
        with Image.open(path) as file:
            results.append(Painted(np.asarray(file.convert("RGB")), float(file.info["seconds"])))
    return results


def row(name: str, given: Sequence[Case], painted: Sequence[Painted], classifier: Classifier) -> str:
    """One line of the table."""
    found = summary([measure(case, one.image) for case, one in zip(given, painted, strict=True)])
    seconds = float(np.median([one.seconds for one in painted]))
    kept = f"{found.kept:.1f} dB" if np.isfinite(found.kept) else "exact"
    changed = f"{found.changed:.0f} px, up to {found.most}" if found.most else "0"
    ring = f"{found.shift:.1f} / {found.error:.1f}"
    cells = (given[0].name, str(len(given)), name, changed, f"{found.seam:.2f}", ring, f"{found.hole:.1f}", kept)
    return " | ".join(("|", *cells, *rates(given, painted, classifier), f"{seconds:.1f} |"))[2:]


def rates(given: Sequence[Case], painted: Sequence[Painted], classifier: Classifier) -> tuple[str, str]:
    """How often object and color are those of the prompt, in any hole of the case, with 95 % intervals."""
    asked = [(case, one) for case, one in zip(given, painted, strict=True) if case.kind]
    if not asked:
        return "", ""
    kinds = colors = 0
    for case, one in asked:
        images = torch.from_numpy(one.image.copy()).float().div(255).expand(len(case.holes), -1, -1, -1)
        seen = recognize(classifier, images, case.holes)
        best = max(seen, key=lambda found: (found[1] == case.kind, found[0] == case.color))
        kinds += best[1] == case.kind
        colors += best[0] == case.color
    return _rate(kinds, len(asked)), _rate(colors, len(asked))


def _rate(right: int, count: int) -> str:
    low, high = wilson(right, count)
    return f"{100 * right / count:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def shaded(case: Case) -> Pixels:
    """The input with its hole shaded."""
    shade = 1 - SHADE * case.mask[..., None]
    pixels: Pixels = (case.image * shade + 128 * (1 - shade)).astype(np.uint8)
    return pixels


def thumbnail(image: Pixels) -> Pixels:
    """The image in the size of a scene, for the sheet."""
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def sheet(rows: Mapping[str, Sequence[Pixels]]) -> Image.Image:
    """Rows of thumbnails one above the other, each with its name on the left."""
    images = image_sheet([np.stack(row) for row in rows.values()])
    labeled = Image.new("RGB", (LABEL + images.width, images.height), "white")
    labeled.paste(images, (LABEL, 0))
    draw, font = ImageDraw.Draw(labeled), ImageFont.load_default(FONT)
    for index, name in enumerate(rows):
        text = name.replace(", ", "\n")
        draw.multiline_text((8, (index + 0.5) * SIZE), text, fill="black", font=font, anchor="lm")
    return labeled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--by", nargs="+", choices=[*CONTENDERS, *NAMES], help="default: ours, and peers in ComfyUI")
    parser.add_argument("--count", type=int, default=100, help="cases of each set")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="results and the classifier")
    parser.add_argument("--sheet", type=Path, help="also write inputs and results to this file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--comfyui", type=Path, metavar="DIR", help="start this ComfyUI for the peers")
    where.add_argument("--server", metavar="URL", help="a ComfyUI that runs already")
    arguments = parser.parse_args()
    classifier, rows = load_classifier(arguments.folder), dict[str, list[Pixels]]()
    with comfyui(arguments.comfyui, arguments.server) as server:
        by = painters(server, cases("object", 1)[0])
        sys.stdout.write(f"{HEAD}\n|{'---|' * HEAD.count(' |')}\n")
        for name in arguments.sets:
            given = cases(name, arguments.count)
            rows[name] = [thumbnail(shaded(case)) for case in given[:COLUMNS]]
            for contender in arguments.by or ["ours", *(peer for peer in NAMES if peer in by)]:
                painted = paint(contender, given, arguments.folder, by)
                rows[f"{name}, {contender}"] = [thumbnail(one.image) for one in painted[:COLUMNS]]
                sys.stdout.write(row(contender, given, painted, classifier) + "\n")
                sys.stdout.flush()
    if arguments.sheet:
        sheet(rows).save(arguments.sheet)


if __name__ == "__main__":
    main()
