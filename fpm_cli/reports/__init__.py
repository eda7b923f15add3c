"""Self-contained HTML pages: their layout, tables and figures."""
