"""Data sets of texts, and their tokens."""
