"""Tests of `jfedsl/sharding`."""
