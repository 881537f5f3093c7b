"""Tests of `jfedsl/commands`."""
