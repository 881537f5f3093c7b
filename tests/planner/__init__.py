"""Tests of `jfedsl/planner`."""
