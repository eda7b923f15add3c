"""Our weights as transformers names them, both ways: a file a family, what they share in `counterpart.py`."""
