"""Evaluation: pure cross-entropy on held-out text. Knows models and batches; nothing of balance losses or training."""
