"""Training on several processes: torch.distributed's engine behind the same model, batches and losses."""
