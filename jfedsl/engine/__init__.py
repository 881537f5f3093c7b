"""What every algorithm is made of: state, the steps of an exchange, periods, averaging, rounds."""
