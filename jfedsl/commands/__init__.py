"""What the command `jfedsl` and the scripts of experiments/ start: one module a program."""
