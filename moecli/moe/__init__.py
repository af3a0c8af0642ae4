"""The MoE layer: routers, dispatch, experts, losses, load figures. Knows torch alone: no GPT, no recipe, no training."""
