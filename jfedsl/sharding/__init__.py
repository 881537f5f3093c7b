"""Clients on devices: slots, the map over clients, and sums over devices."""
