"""Configuration: a frozen, validated object, and the origin of each of its values."""
