"""Tests of `jfedsl/data`."""
