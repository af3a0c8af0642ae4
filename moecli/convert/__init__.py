"""Conversions between checkpoints: rules that work in both directions, and the proof that both sides compute the same."""
