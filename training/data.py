"""Rendered scenes kept on disk, so that a picture is drawn once and read many times."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .scenes import caption, render

SIZE = 128
CAPTIONS = 4  # wordings kept for each scene
UNSEEN = 10_000_000  # seeds from here on are never trained on


def _draw(seed: int) -> tuple[np.ndarray, list[str]]:
    scene = render(seed, size=SIZE)
    rng = np.random.default_rng((seed, 1))
    words = [scene.caption, *(caption(rng, scene.items, scene.background) for _ in range(CAPTIONS - 1))]
    return scene.image, words


def scenes(folder: Path, count: int, first: int = 0) -> tuple[np.ndarray, list[list[str]]]:
    """Scenes of the seeds from `first`: uint8 [count, 128, 128, 3] and their captions; drawn if not on disk yet."""
    pictures, words = folder / f"scenes-{first}-{count}.npy", folder / f"scenes-{first}-{count}.txt"
    if not words.exists():
        folder.mkdir(parents=True, exist_ok=True)
        store = np.lib.format.open_memmap(pictures, "w+", np.uint8, (count, SIZE, SIZE, 3))
        lines = []
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            drawn = pool.map(_draw, range(first, first + count), chunksize=64)
            for i, (image, captions) in enumerate(tqdm(drawn, "scenes", total=count)):
                store[i] = image
                lines.append("\t".join(captions))
        store.flush()
        words.write_text("\n".join(lines))
    captions = [line.split("\t") for line in words.read_text().split("\n")]
    return np.load(pictures, mmap_mode="r"), captions


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in -1..1, channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
