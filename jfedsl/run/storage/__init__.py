"""Files of a run: config, checkpoints, metrics, exports."""
