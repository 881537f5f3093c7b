"""Compiling a run for devices that are not there, and what its programs say."""
