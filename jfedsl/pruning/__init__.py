"""Dynamic pruning: which client-side weights each client computes with."""
