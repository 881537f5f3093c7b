"""Comparisons of settings over seeds, and reports of them."""
