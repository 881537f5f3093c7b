"""Processes of a run, their signals, and what they compile."""
