"""What a test needs that is not everywhere."""

from __future__ import annotations

import pytest

from moecli.moe import grouped_product

needs_library = pytest.mark.skipif(
    grouped_product.LIBRARY is None, reason="grouped_product.c is not compiled, or this processor has no AVX-512"
)
