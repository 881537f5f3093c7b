"""Tests of `jfedsl/files`."""
