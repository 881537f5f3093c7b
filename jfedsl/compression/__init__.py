"""Compressors: pairs of pure functions that chain, with exact costs."""
