"""The split-learning protocol: state, one exchange, aggregation, rounds, evaluation."""
