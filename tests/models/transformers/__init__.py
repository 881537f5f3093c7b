"""Tests of `jfedsl/models/transformers`."""
