"""What lies in the folder of a run: config, checkpoints, metrics, exports."""
