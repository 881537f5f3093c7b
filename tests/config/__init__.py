"""Tests of `jfedsl/config`."""
