"""Measurements of fpm beside a peer or beside its own plan; `benchmarks.suite` runs those with a peer."""
