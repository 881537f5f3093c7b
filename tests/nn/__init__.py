"""Tests of `jfedsl/nn`."""
