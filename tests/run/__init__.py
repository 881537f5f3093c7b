"""Tests of `jfedsl/run`."""
