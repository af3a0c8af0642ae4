"""`python -m moecli`."""

from moecli.cli.app import main

main()
