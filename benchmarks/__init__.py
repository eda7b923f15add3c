"""Measurements of fpm, each beside a peer or beside its own plan."""
