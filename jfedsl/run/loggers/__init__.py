"""Where each round is written beside metrics.csv: one hook a file."""
