"""Training algorithms, each a short file of pure functions that reads as the algorithm."""
