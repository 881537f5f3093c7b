"""Tests of `jfedsl/run/assemble`."""
