"""Models as tuples of layers, the table of models by name, and their FLOPs and residuals."""
