"""This process and the local disk: its command, paths, locks, checksums and seals."""
