"""Clients on devices: their slots, the map over clients, sums across devices."""
