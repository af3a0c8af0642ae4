"""JSON as the standard has it: no word for NaN and infinity, which become null.

Knows plain values. Must not know what they mean.
"""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """The same value with null where a number is none."""
    match value:
        case dict():
            return {key: finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [finite(inner) for inner in value]
        case float() if not math.isfinite(value):
            return None
    return value
