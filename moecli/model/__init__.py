"""The GPT around the MoE layer: attention, blocks, initialisation, accounting, checkpoints. Knows no text, no recipe, no training."""
