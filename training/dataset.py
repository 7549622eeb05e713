"""Rendered scenes kept on disk, so that an image is drawn once and read many times."""

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
from numpy.typing import NDArray
from torch import Tensor

from .progress_bar import progress_bar
from .world.scenes import Scene, caption, render

Images = NDArray[np.uint8]  # [N, H, W, 3]
Note = dict[str, Any]

SCENE_COUNT = 8_000
LARGE_SCENE_COUNT = 500
SIZE = 128
LARGE = 512  # side of the upscaler's output for an image of SIZE
CAPTIONS = 4  # captions kept for each scene
FIRST_UNSEEN = 10_000_000  # seeds from here on are never trained on
VALIDATION_COUNT = 64  # unseen scenes that measure progress


def scenes(folder: Path, count: int, first: int = 0) -> tuple[Images, list[Note]]:
    """Read the scenes of the seeds from `first`, drawn first if missing: uint8 [count, 128, 128, 3] and notes.

    The notes hold the "captions" of each scene and the "boxes" (x0, y0, x1, y1) of its objects, in pixels.
    """
    return _stored(folder, "scenes", _draw, (SIZE, SIZE, 3), count, first)


def large_scenes(folder: Path, count: int, first: int = 0) -> tuple[Images, list[Note]]:
    """Read the same scenes at high resolution, uint8 [count, 512, 512, 3], with the "captions" of each."""
    return _stored(folder, "large", partial(_draw_large, size=LARGE), (LARGE, LARGE, 3), count, first)


def ground_truth(folder: Path, count: int, first: int = 0) -> tuple[NDArray[np.uint8], list[Note]]:
    """Read the labels of the same scenes: inverse depth, uint8 [count, 128, 128], and notes.

    The notes hold the "background" of each scene and its "items", as the fields of `scenes.Item`.
    """
    return _stored(folder, "ground_truth", _draw_ground_truth, (SIZE, SIZE), count, first)


def to_tensor(images: Images) -> Tensor:
    """Convert uint8 [B, H, W, 3] to float [B, 3, H, W] in -1..1, channels last in memory."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_floats(images: Images) -> Tensor:
    """Convert uint8 [N, H, W, 3] to float [N, H, W, 3] in 0..1, as the pipeline takes images."""
    return torch.from_numpy(np.array(images)) / 255


def to_bytes(images: Tensor) -> Images:
    """Convert float [N, H, W, 3] in 0..1 to uint8 [N, H, W, 3]."""
    converted: Images = images.mul(255).round().byte().numpy()
    return converted


def batches(images: Images, size: int) -> list[Images]:
    """Split images into parts of about `size`."""
    return np.array_split(images, max(1, len(images) // size))


def _captions(seed: int, scene: Scene) -> list[str]:
    rng = np.random.default_rng((seed, 1))
    return [scene.caption, *(caption(rng, scene.items, scene.background) for _ in range(CAPTIONS - 1))]


def _draw(seed: int) -> tuple[Images, Note]:
    scene = render(seed, size=SIZE)
    return scene.image, {"captions": _captions(seed, scene), "boxes": [item.box for item in scene.items]}


def _draw_large(seed: int, size: int) -> tuple[Images, Note]:
    scene = render(seed, size=size)
    return scene.image, {"captions": _captions(seed, scene)}


def _draw_ground_truth(seed: int) -> tuple[NDArray[np.uint8], Note]:
    scene = render(seed, size=SIZE)
    note = {"background": scene.background, "items": [asdict(item) for item in scene.items]}
    return np.round(255 * np.clip(scene.nearness, 0, 1)).astype(np.uint8), note


@cache
def _workers() -> ProcessPoolExecutor:
    # Spawned: a fork would copy the locks of torch's threads, held or not. Kept: each takes seconds to start.
    return ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))


def _stored(
    folder: Path,
    name: str,
    draw: Callable[[int], tuple[NDArray[np.uint8], Note]],
    shape: tuple[int, ...],
    count: int,
    first: int,
) -> tuple[NDArray[np.uint8], list[Note]]:
    images, notes = folder / f"{name}-{first}-{count}.npy", folder / f"{name}-{first}-{count}.jsonl"
    if not notes.exists():
        folder.mkdir(parents=True, exist_ok=True)
        store = np.lib.format.open_memmap(images, "w+", np.uint8, (count, *shape))
        lines = []
        drawn = _workers().map(draw, range(first, first + count), chunksize=64)
        for i, (image, note) in enumerate(progress_bar(drawn, name, total=count)):
            store[i] = image
            lines.append(json.dumps(note))
        store.flush()
        notes.write_text("\n".join(lines))
    return np.load(images, mmap_mode="r"), [json.loads(line) for line in notes.read_text().splitlines()]
