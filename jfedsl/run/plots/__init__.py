"""Pictures of runs and settings, and pages that show them."""
