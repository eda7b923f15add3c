"""The three families, from shared blocks: `gpt.py`, `bert.py`, `encdec.py`, made by `build.py`."""
