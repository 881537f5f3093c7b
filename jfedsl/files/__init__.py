"""Files on the local disk: paths, locks between processes, seals and checksums."""
