"""Files on the local disk: paths, locks between processes, checksums and seals."""
