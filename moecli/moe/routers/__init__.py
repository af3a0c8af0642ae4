"""The routers by name. A new router is a file here and a line in ROUTERS; recipe, tests and reports follow from the table."""

from __future__ import annotations

from moecli.moe.routers.base import Router, RouterConfig
from moecli.moe.routers.topk import TopKConfig, TopKRouter

ROUTERS: dict[str, type[Router]] = {
    "topk": TopKRouter,
}

__all__ = ["ROUTERS", "Router", "RouterConfig", "TopKConfig", "TopKRouter"]
