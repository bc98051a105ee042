"""`python -m astro_cli` is `astro`."""

from astro_cli.cli import main

main()
