"""Tests of `jfedsl/studies`."""
