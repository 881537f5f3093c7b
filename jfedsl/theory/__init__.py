"""Convergence: a bound on the average squared gradient norm, and its constants."""
