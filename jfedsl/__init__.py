"""Lightweight federated split learning over wireless networks, in JAX."""

__version__ = "0.1.0"
