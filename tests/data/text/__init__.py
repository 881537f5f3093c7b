"""Tests of `jfedsl/data/text`."""
