"""Depth studies: the grid of runs, their statistics, the verdict."""
