"""A config.json of Hugging Face: its keys by their newer and older names, and everything in it that can't be represented, told at once.

Knows names and defaults of keys that many classes share. Must not know any class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moecli.data.small_file import read_small
from moecli.errors import ConvertError

CONFIG_FILE = "config.json"
OTHER_FOLDER = "give a folder that save_pretrained of transformers wrote"
COPY_AGAIN = "copy or download the checkpoint again"
# No dimension of a model is larger, and products of a few of them still are whole numbers of 64 bits.
LARGEST_NUMBER = 2**24


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        ConvertError: there is none, or it is damaged.
    """
    path = folder / CONFIG_FILE
    try:
        content = json.loads(read_small(path))
    except FileNotFoundError as error:
        raise ConvertError("there is no such file", where=str(path), next_step=OTHER_FOLDER) from error
    except UnicodeDecodeError as error:
        raise ConvertError("damaged: not UTF-8 text", where=str(path), next_step=COPY_AGAIN) from error
    except OSError as error:
        raise ConvertError(f"can't be read: {error.strerror}", where=str(path), next_step=COPY_AGAIN) from error
    except (ValueError, RecursionError) as error:
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
        found = [(name, self._content[name]) for name in (key, *older) if name in self._content]
        if any(value != found[0][1] for _, value in found):
            what = " but ".join(f"{name} is {repr(value)[:100]}" for name, value in found)
            allowed = "one value: these are the newer and the older name of the same setting"
            raise ConvertError(what, where=self._where, allowed=allowed, next_step=COPY_AGAIN)
        if found:
            return found[0][1]
        if key not in self._defaults:
            raise ConvertError(f"names no {key}", where=self._where, next_step=COPY_AGAIN)
        return self._defaults[key]

    def number(self, key: str, *older: str) -> int:
        """A whole number of 0 or more."""
        return self._checked_number(key, self.get(key, *older))

    def optional_number(self, key: str, default: int | None) -> int | None:
        """A whole number of 0 or more, or the default where the key is left out."""
        value = self.optional(key, default)
        return None if value is None else self._checked_number(key, value)

    def flag(self, key: str) -> bool:
        """Yes or no; a string such as "false" is neither."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def optional_flag(self, key: str) -> bool:
        """False where the key is left out."""
        return key in self._content and self.flag(key)

    def positive(self, key: str) -> float:
        """A finite number above 0."""
        return self._checked_positive(key, self.get(key))

    def optional_list(self, key: str, kind: type) -> list[Any]:
        """A list of values of one type; empty where the key is left out."""
        values = self.optional(key, [])
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise self._wrong(key, values, f"a list of {kind.__name__}")
        return values

    def optional(self, key: str, default: Any = None) -> Any:
        return self._content.get(key, default)

    def refuse_unless(self, is_fine: bool, feature: str) -> None:
        """Notes a feature that can't be represented."""
        if not is_fine:
            self.problems.append(feature)

    def rope_theta(self) -> float:
        """Base of the rotary frequencies. Any way of stretching them is refused, under the newer and the older name."""
        names = ("rope_parameters", "rope_scaling")
        ropes = {name: self.optional(name, {}) for name in names}
        part = self.optional("partial_rotary_factor", self._defaults.get("partial_rotary_factor", 1.0))
        thetas = []
        for name, rope in ropes.items():
            if not isinstance(rope, dict):
                raise self._wrong(name, rope, "a mapping")
            kind = rope.get("rope_type", rope.get("type", "default"))
            self.refuse_unless(kind == "default", f"rope scaling ({name}: {kind})")
            by_layer = sorted(key for key, value in rope.items() if isinstance(value, dict))
            self.refuse_unless(not by_layer, f"rotary positions that differ between layers ({name}: {', '.join(by_layer)})")
            part = rope.get("partial_rotary_factor", part)
            if rope.get("rope_theta") is not None:
                thetas.append(self._checked_positive(f"{name}.rope_theta", rope["rope_theta"]))
        self.refuse_unless(part == 1.0, f"rotary positions on a part of each head (partial_rotary_factor {part})")
        if len(set(thetas)) > 1:
            what = f"rope_parameters.rope_theta is {thetas[0]:g}, rope_scaling.rope_theta {thetas[1]:g}"
            raise ConvertError(what, where=self._where, allowed="the same number, or one of the two", next_step=COPY_AGAIN)
        return thetas[0] if thetas else self._checked_positive("rope_theta", self.optional("rope_theta", self._default_theta()))

    def refuse_common_features(self) -> None:
        """Features of several classes that a GPT doesn't have."""
        act = self.optional("hidden_act", "silu")
        self.refuse_unless(act in ("silu", "swish"), f"hidden_act {act} (a GPT with gates has silu)")
        self._refuse_windows()
        self.refuse_unless(self.optional("quantization_config") is None, "quantised weights (quantization_config)")
        self.refuse_unless(self.optional("clip_qkv") is None, "clipped queries, keys and values (clip_qkv)")
        self.refuse_unless(not self.optional_flag("mlp_bias"), "biases in feed-forward networks (mlp_bias)")

    def check(self) -> None:
        """Raises ConvertError with every feature that was noted."""
        if self.problems:
            what = f"moecli has no {'; no '.join(self.problems)}"
            raise ConvertError(what, where=self._where, next_step="give a checkpoint without it")

    def _refuse_windows(self) -> None:
        """Where the class has a switch, it alone decides: with it, a window that is left out is the class's own. Else any window counts."""
        window = self.optional("sliding_window")
        if "use_sliding_window" in self._defaults:
            shown = "use_sliding_window" if window is None else f"{window} tokens"
            self.refuse_unless(not self.flag("use_sliding_window"), f"attention to a sliding window ({shown})")
        else:
            self.refuse_unless(window is None, f"attention to a sliding window ({window} tokens)")
        kinds = sorted(set(self.optional_list("layer_types", str)) - {"full_attention"})
        self.refuse_unless(not kinds, f"layer_types {', '.join(kinds)}")

    def _default_theta(self) -> float:
        return float(self._defaults.get("rope_theta", 10000.0))

    def _checked_number(self, key: str, value: Any) -> int:
        if type(value) is not int or not 0 <= value <= LARGEST_NUMBER:
            raise self._wrong(key, value, f"a whole number from 0 to {LARGEST_NUMBER:,}")
        return value

    def _checked_positive(self, key: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= 1e30:
            raise self._wrong(key, value, "a finite number above 0")
        return float(value)

    def _wrong(self, key: str, value: Any, allowed: str) -> ConvertError:
        return ConvertError(f"{key} is {repr(value)[:100]}", where=self._where, allowed=allowed, next_step=COPY_AGAIN)
