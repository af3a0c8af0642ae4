"""Numbers as people read them.

Knows formatting. Must not know what is counted.
"""

from __future__ import annotations


def big_number(number: float) -> str:
    """3,712,512 -> "3.71 M"."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"


def counted(number: int, word: str, ending: str = "s") -> str:
    """1 -> "1 process", 2,000 -> "2,000 processes" with the ending "es"."""
    return f"{number:,} {word}{ending if number != 1 else ''}"


def token_word(is_masked: bool) -> str:
    """The token that a loss is taken over."""
    return "masked token" if is_masked else "token"


def num_bytes(number: float) -> str:
    """2,000,000 -> "2.0 MB" (powers of 1,000)."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """3,700 -> "1 h 02 min", 125 -> "2 min 05 s", 9.04 -> "9.0 s"."""
    whole = round(seconds)
    if whole >= 3600:
        minutes = round(whole / 60)
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{seconds:.{int(seconds < 10)}f} s"


def precise_seconds(seconds: float) -> str:
    """0.00123 -> "1.23 ms", 12.34 -> "12.3 s"."""
    return f"{seconds:,.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
