"""What convergence costs: a bound on the average squared gradient norm, and its constants."""
