"""The run folder: configuration, manifest, metrics rows."""
