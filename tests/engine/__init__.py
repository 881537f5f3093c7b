"""Tests of `jfedsl/engine`."""
