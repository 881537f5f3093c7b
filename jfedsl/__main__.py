"""`python -m jfedsl` does what the command `jfedsl` does."""

from jfedsl.commands.main import main

main()
