"""A run: put together, trained, logged, saved, resumed, evaluated, exported."""
