"""Tests of `jfedsl/run/storage`."""
