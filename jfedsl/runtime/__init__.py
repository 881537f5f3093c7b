"""What surrounds training: workdir, checkpoints, metrics, progress, figures, scripts."""
