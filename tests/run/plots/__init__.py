"""Tests of `jfedsl/run/plots`."""
