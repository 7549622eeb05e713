"""Rendered scenes kept on disk, so that a picture is drawn once and read many times."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .scenes import caption, render

SIZE = 128
CAPTIONS = 4  # wordings kept for each scene
UNSEEN = 10_000_000  # seeds from here on are never trained on


def _draw(seed: int) -> tuple[np.ndarray, str]:
    scene = render(seed, size=SIZE)
    rng = np.random.default_rng((seed, 1))
    words = [scene.caption, *(caption(rng, scene.items, scene.background) for _ in range(CAPTIONS - 1))]
    return scene.image, json.dumps({"captions": words, "boxes": [item.box for item in scene.items]})


def scenes(folder: Path, count: int, first: int = 0) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Scenes of the seeds from `first`, drawn if not on disk yet: uint8 [count, 128, 128, 3], and for each of them
    its "captions" and the "boxes" (x0, y0, x1, y1) of its objects, in pixels."""
    pictures, notes = folder / f"scenes-{first}-{count}.npy", folder / f"scenes-{first}-{count}.jsonl"
    if not notes.exists():
        folder.mkdir(parents=True, exist_ok=True)
        store = np.lib.format.open_memmap(pictures, "w+", np.uint8, (count, SIZE, SIZE, 3))
        lines = []
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            drawn = pool.map(_draw, range(first, first + count), chunksize=64)
            for i, (image, line) in enumerate(tqdm(drawn, "scenes", total=count)):
                store[i] = image
                lines.append(line)
        store.flush()
        notes.write_text("\n".join(lines))
    return np.load(pictures, mmap_mode="r"), [json.loads(line) for line in notes.read_text().splitlines()]


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1, channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
