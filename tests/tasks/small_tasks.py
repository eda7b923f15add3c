"""A task definition of ten lines, as a user would write it."""

TEN_LINES = """name = "afqmc"
language = "zh"
labels = ["0", "1"]

[[layouts]]
format = "tsv"
columns = ["text_a", "text_b", "label"]
text_a = "text_a"
text_b = "text_b"
label = "label"
"""
