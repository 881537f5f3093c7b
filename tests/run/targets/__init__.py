"""Tests of `jfedsl/run/targets`."""
