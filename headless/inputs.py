"""The inputs of V1 node classes, parsed from INPUT_TYPES."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

Json = Any  # a parsed JSON value

WIDGETS = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
SEED_CONTROLS = frozenset({"fixed", "randomize", "increment", "decrement"})
TRUE, FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True, kw_only=True)
class Input:
    """One entry of INPUT_TYPES; `type` is COMBO for a list of choices, `options` has limits and defaults."""

    name: str
    type: str
    options: Mapping[str, Any]
    required: bool

    @property
    def widget(self) -> bool:
        """Whether the canvas shows a widget, whose value is saved with the node."""
        return self.type in WIDGETS and not self.options.get("forceInput", False)

    @property
    def choices(self) -> list[Json]:
        return list(self.options.get("options", ()))

    @property
    def seed_control(self) -> bool:
        """Whether the canvas adds its fixed/randomize/increment/decrement widget after this one."""
        named_seed = self.type == "INT" and self.name in ("seed", "noise_seed")
        return bool(self.options.get("control_after_generate", named_seed))

    @property
    def has_default(self) -> bool:
        return self.widget and ("default" in self.options or bool(self.choices))

    @property
    def default(self) -> Json:
        return self.options["default"] if "default" in self.options else self.choices[0]

    def convert(self, value: Json) -> Json:
        """Convert a value from JSON or the command line to this input's type; raise ValueError if it does not fit."""
        readers: dict[str, Callable[[Json], Json]] = {
            "INT": _whole,
            "FLOAT": float,
            "BOOLEAN": _truth,
            "STRING": _text,
            "COMBO": self._choice,
        }
        try:
            return readers[self.type](value)
        except (TypeError, ValueError, OverflowError):
            kind = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}.get(self.type, "text")
            raise ValueError(f"{self.name} is {value!r}; enter {kind}") from None

    def _choice(self, value: Json) -> Json:
        text = _text(value)
        return next((choice for choice in self.choices if str(choice) == text), text)

    def check(self, value: Json) -> None:
        """Raise ValueError if a converted value is outside the limits or not one of the choices."""
        low, high = self.options.get("min", -inf), self.options.get("max", inf)
        if self.type == "COMBO" and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}; {_listed(self.choices)}")
        if self.type in ("INT", "FLOAT") and not low <= value <= high:
            limits = (
                f"of at least {low}"
                if high == inf
                else f"of at most {high}"
                if low == -inf
                else f"from {low} to {high}"
            )
            raise ValueError(f"{self.name} is {value}; enter a value {limits}")


def _whole(value: Json) -> int:
    whole = int(value)
    if not isinstance(value, str) and whole != value:
        raise ValueError(value)
    return whole


def _text(value: Json) -> str:
    if isinstance(value, (list, dict)):
        raise TypeError(value)
    return str(value)


def _truth(value: Json) -> bool:
    word = str(value).lower()
    if word not in TRUE | FALSE:
        raise ValueError(value)
    return word in TRUE


def _listed(choices: list[Json], most: int = 20) -> str:
    if not choices:
        return "there are no choices"
    more = f" and {len(choices) - most} more" if len(choices) > most else ""
    return f"choose one of {', '.join(map(str, choices[:most]))}{more}"


def inputs_of(node_class: type) -> dict[str, Input]:
    """Return the inputs of a node class in its order, the required ones first."""
    return parse(node_class.INPUT_TYPES())  # type: ignore[attr-defined]


def parse(declared: Mapping[str, Any]) -> dict[str, Input]:
    """Return the inputs that INPUT_TYPES() or "input" of /object_info declares, the required ones first."""
    return {
        name: _input(name, entry, section == "required")
        for section in ("required", "optional")
        for name, entry in declared.get(section, {}).items()
    }


def _input(name: str, entry: Sequence[Any], required: bool) -> Input:
    kind, options = entry[0], dict(entry[1]) if len(entry) > 1 else {}
    if isinstance(kind, (list, tuple)):  # the older combo declaration: choices in place of the type
        kind, options = "COMBO", {**options, "options": list(kind)}
    return Input(name=name, type=kind, options=options, required=required)


def hidden_of(node_class: type) -> dict[str, str]:
    """Return the hidden inputs, which the runner fills in: argument name -> PROMPT, EXTRA_PNGINFO or UNIQUE_ID."""
    return dict(node_class.INPUT_TYPES().get("hidden", {}))  # type: ignore[attr-defined]


def widget_slots(declared: Mapping[str, Input], values: Sequence[Json]) -> dict[str, int]:
    """Return the index in a node's saved `widgets_values` at which each widget has, or would have, its value.

    The canvas adds values of its own: a seed's control, and an image's upload button after the required widgets.
    """
    slots: dict[str, int] = {}
    at = 0
    for required in (True, False):
        section = [entry for entry in declared.values() if entry.widget and entry.required == required]
        for entry, following in zip(section, [*section[1:], None], strict=False):
            slots[entry.name] = at
            at += 1
            if entry.seed_control and _is_seed_control(values[at : at + 1], following):
                at += 1
        uploads = any(entry.options.get("image_upload") for entry in section)
        if uploads and values[at : at + 1] in (["image"], [None]):
            at += 1
    return slots


def _is_seed_control(value: Sequence[Json], following: Input | None) -> bool:
    """Canvases before April 2023 have true (randomize) or false (fixed) where a word stands today."""
    if value and isinstance(value[0], bool):
        return following is None or following.type != "BOOLEAN"
    return bool(value) and isinstance(value[0], str) and value[0] in SEED_CONTROLS
