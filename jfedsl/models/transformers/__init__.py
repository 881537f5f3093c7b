"""Transformers as layer tuples: encoders and decoders whose every block can be the cut."""
