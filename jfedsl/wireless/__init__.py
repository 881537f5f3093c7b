"""The wireless network in simulation: what a round costs in seconds and joules."""
