"""Import from and export to transformers: one file per model family, shared parts in `weight_mapping.py`."""
