"""Tests of `jfedsl/models/pretrained`."""
