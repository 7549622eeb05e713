"""Rendered scenes kept on disk, so that a picture is drawn once and read many times."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .world.scenes import Scene, caption, render

SIZE = 128
LARGE = 512  # what the upscaler makes of a picture of SIZE
CAPTIONS = 4  # wordings kept for each scene
UNSEEN = 10_000_000  # seeds from here on are never trained on
CHECKED = 64  # of them tell how far a phase has come


Note = dict[str, Any]


def _wordings(seed: int, scene: Scene) -> list[str]:
    rng = np.random.default_rng((seed, 1))
    return [scene.caption, *(caption(rng, scene.items, scene.background) for _ in range(CAPTIONS - 1))]


def _draw(seed: int) -> tuple[np.ndarray, Note]:
    scene = render(seed, size=SIZE)
    return scene.image, {"captions": _wordings(seed, scene), "boxes": [item.box for item in scene.items]}


def _draw_large(seed: int, size: int) -> tuple[np.ndarray, Note]:
    scene = render(seed, size=size)
    return scene.image, {"captions": _wordings(seed, scene)}


def _draw_truth(seed: int) -> tuple[np.ndarray, Note]:
    scene = render(seed, size=SIZE)
    note = {"background": scene.background, "items": [asdict(item) for item in scene.items]}
    return np.round(255 * np.clip(scene.nearness, 0, 1)).astype(np.uint8), note


def scenes(folder: Path, count: int, first: int = 0) -> tuple[np.ndarray, list[Note]]:
    """Scenes of the seeds from `first`, drawn if not on disk yet: uint8 [count, 128, 128, 3], and for each of them
    its "captions" and the "boxes" (x0, y0, x1, y1) of its objects, in pixels."""
    return _stored(folder, "scenes", _draw, (SIZE, SIZE, 3), count, first)


def large_scenes(folder: Path, count: int, first: int = 0) -> tuple[np.ndarray, list[Note]]:
    """The same scenes drawn sharper, uint8 [count, 512, 512, 3], and the "captions" of each."""
    return _stored(folder, "large", partial(_draw_large, size=LARGE), (LARGE, LARGE, 3), count, first)


def truths(folder: Path, count: int, first: int = 0) -> tuple[np.ndarray, list[Note]]:
    """What the renderer knows of the same scenes: inverse depth, uint8 [count, 128, 128], and for each of them its
    "background" and its "items" as the fields of `scenes.Item`."""
    return _stored(folder, "truths", _draw_truth, (SIZE, SIZE), count, first)


@cache
def _workers() -> ProcessPoolExecutor:
    # Spawned: a fork would copy the locks of torch's threads, held or not. Kept: each takes seconds to start.
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))


def _stored(
    folder: Path,
    name: str,
    draw: Callable[[int], tuple[np.ndarray, Note]],
    shape: tuple[int, ...],
    count: int,
    first: int,
) -> tuple[np.ndarray, list[Note]]:
    pictures, notes = folder / f"{name}-{first}-{count}.npy", folder / f"{name}-{first}-{count}.jsonl"
    if not notes.exists():
        folder.mkdir(parents=True, exist_ok=True)
        store = np.lib.format.open_memmap(pictures, "w+", np.uint8, (count, *shape))
        lines = []
        drawn = _workers().map(draw, range(first, first + count), chunksize=64)
        for i, (image, note) in enumerate(tqdm(drawn, name, total=count)):
            store[i] = image
            lines.append(json.dumps(note))
        store.flush()
        notes.write_text("\n".join(lines))
    return np.load(pictures, mmap_mode="r"), [json.loads(line) for line in notes.read_text().splitlines()]


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1, channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
