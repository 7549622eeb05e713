"""ControlNets on a conditioning: which image steers it, how strongly and in which part of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from .components import Model, to_device
from .images import fit_batch, scale
from .levels import Levels, levels
from .types import Conditioning, Options

if TYPE_CHECKING:  # open_clip takes seconds to import
    from ..models.controlnet import ControlNet
    from ..models.hooks import Control

KEYS = frozenset({"control", "control_apply_to_uncond"})  # ComfyUI's
STRIDE = 8  # image pixels per latent pixel
Residuals = dict[str, list[Tensor]]


@dataclass(frozen=True)
class ControlModel:
    """The object on a CONTROL_NET wire."""

    name: str  # the file's, for messages
    network: ControlNet
    pooled: bool = False  # the residuals are averaged over the image


@dataclass(frozen=True, eq=False)
class AppliedControl:
    """A ControlNet with its image, on an entry of a conditioning, after those that it has."""

    model: ControlModel
    image: Tensor  # [N, H, W, 3] in 0..1
    strength: float
    start: float  # the shares of the run between which it applies
    end: float
    previous: AppliedControl | None

    @property
    def chain(self) -> list[AppliedControl]:
        """All that apply, the first first."""
        return [*(self.previous.chain if self.previous else ()), self]


@dataclass(frozen=True)
class PlacedControl:
    """A ControlNet that is where it computes, for a latent of one size."""

    control: AppliedControl
    hint: Tensor  # [B, 3, 8 h, 8 w]
    levels: Levels

    def residuals(self, x: Tensor, t: Tensor, context: Tensor) -> Residuals:
        """x: [B, 4, h, w] as the UNet gets it, t: [B], context: [B, T, D]."""
        network, strength = self.control.model.network, self.control.strength
        given = network(x.to(network.dtype), self.hint, t, context.to(network.dtype))

        def scaled(residual: Tensor) -> Tensor:
            pooled = residual.mean((2, 3), keepdim=True).expand_as(residual) if self.control.model.pooled else residual
            return pooled * strength

        return {name: [scaled(residual) for residual in of_name] for name, of_name in given.items()}


Controls = list[PlacedControl]


def load_control_model(path: Path, model: Model | None = None) -> ControlModel:
    """Load a ControlNet from a file of its own; model: what a file of differences is added to."""
    from ..models import controlnet_file

    unet: Callable[[], dict[str, Tensor]] | None = None if model is None else lambda: model.changed_unet.state_dict()
    return ControlModel(path.name, controlnet_file.load_controlnet(path, unet), controlnet_file.is_pooled(path))


def apply_control(
    model: ControlModel,
    image: Tensor,
    *sides: Conditioning,
    strength: float,
    start: float = 0.0,
    end: float = 1.0,
    to_negative: bool = False,
) -> tuple[Conditioning, ...]:
    """Let an image [N, H, W, 3] steer every entry of the conditionings, between two shares 0..1 of the run.

    to_negative: the negative side gets it too when it is sampled. At strength 0 the conditionings stay as they are.
    """
    if strength == 0:
        return sides
    shared: dict[AppliedControl | None, AppliedControl] = {}  # one object for both sides, which then share calls

    def applied(options: Options) -> Options:
        previous = options.get("control")
        if previous not in shared:
            shared[previous] = AppliedControl(model, image[..., :3].float(), strength, start, end, previous)
        return {**options, "control": shared[previous], "control_apply_to_uncond": to_negative}

    return tuple([[context, applied(options)] for context, options in side] for side in sides)


def place_controls(control: AppliedControl | None, model: Model, latent: Tensor, copies: int) -> Controls:
    """Prepare what applies to a latent [B, C, h, w], for a call with this many copies of it.

    ValueError where a ControlNet is for another model.
    """
    return [_placed(one, model, latent, copies) for one in control.chain] if control else []


def _placed(control: AppliedControl, model: Model, latent: Tensor, copies: int) -> PlacedControl:
    network = control.model.network
    check_fit(control.model, model)
    to_device(network)
    height, width = (STRIDE * length for length in latent.shape[-2:])
    hint = scale(control.image, width, height, method="nearest-exact", crop=True).movedim(-1, 1)
    hint = fit_batch(hint, len(latent)).repeat(copies, 1, 1, 1).to(latent.device, network.dtype)
    return PlacedControl(control, hint, levels(model.schedule, control.start, control.end))


def check_fit(control: ControlModel, model: Model) -> None:
    """ValueError where a ControlNet has not the sizes of a model's UNet."""
    own, unet = control.network.spec, model.unet.spec
    if replace(own, in_channels=unet.in_channels, out_channels=unet.out_channels) != replace(
        unet, vector_dim=None, num_classes=None
    ):
        raise ValueError(
            f"{control.name} is a ControlNet for text {own.context_dim} wide and {own.model_channels} channels, and "
            f"{model.name} takes text {unet.context_dim} wide and has {unet.model_channels}; choose a ControlNet for "
            f"{'2' if unet.linear_projection else '1'}.x"
        )


def total(controls: Sequence[PlacedControl], sigma: float, x: Tensor, t: Tensor, context: Tensor) -> Control | None:
    """Add up the residuals of those that apply at a noise level; None where none does."""
    given = [placed.residuals(x, t, context) for placed in controls if placed.levels.cover(sigma)]
    if not given:
        return None
    first, *others = given
    added: Residuals = {name: list(residuals) for name, residuals in first.items()}
    for other in others:
        added = {name: [a + b for a, b in zip(added[name], other[name], strict=True)] for name in added}
    return added
