"""Data: sources, the prepared form, batches and batched augmentation."""
