"""What settings of a run are predicted to take and to reach, and which of them is best."""
