"""Text to ids: corpora, tokenizers, the split into train and validation, the cache, and batches. Knows no model and no training."""
