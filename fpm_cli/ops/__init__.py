"""The operators that models call, each behind one function, so that a faster one can take its place."""
