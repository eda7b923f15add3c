"""Corpora: read -> normalise -> filter -> deduplicate -> tokenise -> indexed files + manifest."""
