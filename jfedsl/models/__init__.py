"""Models as tuples of layers, the table of them, and what they cost."""
