"""The command line: one thin file a verb; it parses, calls and prints. No torch at import."""
