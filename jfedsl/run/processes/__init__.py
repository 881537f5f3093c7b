"""Processes of a run: joining, signals, compiled programs."""
