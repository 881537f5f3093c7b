"""Tests of `jfedsl/compression`."""
