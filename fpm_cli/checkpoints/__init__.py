"""Checkpoints on disk: shards, manifest, verification, storage layer."""
