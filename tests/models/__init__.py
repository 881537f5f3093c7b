"""Tests of `jfedsl/models`."""
