"""Data sets, their partition over clients, and the order in which clients see their examples."""
