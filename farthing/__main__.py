"""`python -m farthing` is the `farthing` command."""

from farthing.cli import main

main()
