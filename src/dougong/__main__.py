"""`python -m dougong` is the `dougong` command."""

from dougong.cli import main

main()
