"""Self-contained HTML pages and tables of runs, comparisons, studies and costs."""
