"""A trained MoE with fewer experts, more, narrower ones, another gate or none: a file per operation, put together in operations.py."""
