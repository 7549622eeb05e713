"""Make images larger with a network trained for it, such as ESRGAN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .components import compute_device, to_device
from .progress import progress
from .tiling import tiled

TILE, SMALLEST_TILE, OVERLAP = 512, 128, 32  # ComfyUI's


@dataclass(frozen=True)
class UpscaleModel:
    """The object on an UPSCALE_MODEL wire."""

    network: nn.Module
    run: Callable[[Tensor], Tensor]  # [1, 3, h, w] in 0..1 -> [1, 3, scale h, scale w]
    scale: int

    @torch.no_grad()
    def upscale(self, image: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 -> float32 [B, scale H, scale W, 3] in 0..1; in smaller tiles where memory runs out."""
        to_device(self.network, torch.float32)
        x = image[..., :3].float().movedim(-1, 1)  # BHWC -> BCHW
        tile = TILE
        while True:
            try:
                return self._in_tiles(x, tile).clamp(0, 1).movedim(1, -1)
            except torch.OutOfMemoryError:
                if tile <= SMALLEST_TILE:
                    raise
                torch.cuda.empty_cache()
                tile //= 2

    def _in_tiles(self, x: Tensor, tile: int) -> Tensor:
        def on_device(part: Tensor) -> Tensor:
            return self.run(part.to(compute_device())).float().cpu()

        def report(done: int, total: int) -> None:
            progress(len(larger) * total + done, len(x) * total)

        larger: list[Tensor] = []
        for one in x[:, None]:
            # ComfyUI's tiles: each begins tile - OVERLAP after the one before, and the last may be smaller
            grid = tile - OVERLAP
            larger.append(
                tiled(
                    on_device,
                    one,
                    tile=(tile, tile),
                    overlap=OVERLAP,
                    scale=self.scale,
                    progress=report,
                    grid=grid,
                )
            )
        return torch.cat(larger)


def load_upscale_model(path: Path) -> UpscaleModel:
    """Load an upscale model from a file; it computes in float32."""
    from ..models import upscale_model_file

    found = upscale_model_file.load_upscale_model(path)
    return UpscaleModel(found.model, found, found.scale)
