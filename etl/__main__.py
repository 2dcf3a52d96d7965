"""`python -m etl` is the command line tool."""

from .cli import main

main()
