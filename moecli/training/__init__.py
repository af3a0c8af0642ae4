"""Training: objective, optimizer, schedule, loop, resumable state, metric log. Knows models and batches; no recipe, no run folder."""
