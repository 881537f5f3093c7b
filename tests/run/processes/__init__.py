"""Tests of `jfedsl/run/processes`."""
