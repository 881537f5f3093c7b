"""Tests of the wireless network."""
