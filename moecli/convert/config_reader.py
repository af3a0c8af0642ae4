"""A config.json of Hugging Face: its keys by their newer and older names, and everything in it that can't be represented, told at once.

Knows names and defaults of keys that many classes share. Must not know any class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moecli.errors import ConvertError

CONFIG_FILE = "config.json"
OTHER_FOLDER = "give a folder that save_pretrained of transformers wrote"
COPY_AGAIN = "copy or download the checkpoint again"


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        ConvertError: there is none, or it is damaged.
    """
    path = folder / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConvertError("there is no such file", where=str(path), next_step=OTHER_FOLDER) from error
    except (OSError, ValueError) as error:
        raise ConvertError(f"damaged: {error}", where=str(path), next_step=COPY_AGAIN) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise ConvertError("it names no model_type, so it is not of a Hugging Face model", where=str(path), next_step=OTHER_FOLDER)
    return content


class ConfigReader:
    """Reads keys, and collects what is wrong with them.

    Args:
        content: of config.json.
        defaults: what the class takes for keys that are left out.
        where: the file, for messages.
        is_zero: whether all of a tensor of the checkpoint is 0, or there is none of that name.
    """

    def __init__(self, content: Mapping[str, Any], defaults: Mapping[str, Any], where: str, is_zero: Callable[[str], bool]) -> None:
        self._content = {key: value for key, value in content.items() if value is not None}
        self._defaults = defaults
        self._where = where
        self.is_zero = is_zero
        self.problems: list[str] = []

    def get(self, key: str, *older: str) -> Any:
        """The value of a key that has to be there, or the class's default for it."""
        for name in (key, *older):
            if name in self._content:
                return self._content[name]
        if key not in self._defaults:
            raise ConvertError(f"names no {key}", where=self._where, next_step=COPY_AGAIN)
        return self._defaults[key]

    def number(self, key: str, *older: str) -> int:
        """A whole number of 0 or more."""
        value = self.get(key, *older)
        if type(value) is not int or value < 0:
            raise ConvertError(f"{key} is {value!r}", where=self._where, allowed="a whole number of 0 or more", next_step=COPY_AGAIN)
        return value

    def optional(self, key: str, default: Any = None) -> Any:
        return self._content.get(key, default)

    def refuse_unless(self, is_fine: bool, feature: str) -> None:
        """Notes a feature that can't be represented."""
        if not is_fine:
            self.problems.append(feature)

    def rope_theta(self) -> float:
        """Base of the rotary frequencies. Any way of stretching them is refused."""
        rope = self.optional("rope_parameters") or self.optional("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise ConvertError(f"rope_parameters is {rope!r}", where=self._where, allowed="a mapping", next_step=COPY_AGAIN)
        kind = rope.get("rope_type", rope.get("type", "default"))
        self.refuse_unless(kind == "default", f"rope scaling ({kind})")
        default_part = self._defaults.get("partial_rotary_factor", 1.0)
        part = rope.get("partial_rotary_factor", self.optional("partial_rotary_factor", default_part))
        self.refuse_unless(part == 1.0, f"rotary positions on a part of each head (partial_rotary_factor {part})")
        theta = rope.get("rope_theta", self.optional("rope_theta", self._defaults.get("rope_theta", 10000.0)))
        if not isinstance(theta, int | float):
            raise ConvertError(f"rope_theta is {theta!r}", where=self._where, allowed="a number", next_step=COPY_AGAIN)
        return float(theta)

    def refuse_common_features(self) -> None:
        """Features of several classes that a GPT doesn't have."""
        act = self.optional("hidden_act", "silu")
        self.refuse_unless(act in ("silu", "swish"), f"hidden_act {act} (a GPT with gates has silu)")
        uses_window = self.optional("use_sliding_window", self._defaults.get("use_sliding_window", True))
        window = self.optional("sliding_window") if uses_window else None
        self.refuse_unless(not window, f"attention to a sliding window ({window} tokens)")
        kinds = sorted({str(kind) for kind in self.optional("layer_types", [])} - {"full_attention"})
        self.refuse_unless(not kinds, f"layer_types {', '.join(kinds)}")
        self.refuse_unless(self.optional("quantization_config") is None, "quantised weights (quantization_config)")
        self.refuse_unless(self.optional("clip_qkv") is None, "clipped queries, keys and values (clip_qkv)")
        self.refuse_unless(not self.optional("mlp_bias", False), "biases in feed-forward networks (mlp_bias)")

    def check(self) -> None:
        """Raises ConvertError with every feature that was noted."""
        if self.problems:
            what = f"moecli has no {'; no '.join(self.problems)}"
            raise ConvertError(what, where=self._where, next_step="give a checkpoint without it")
