"""What runs beside Airflow, under its Python: the standard library alone at import, nothing of astro_cli.

Copied into the engine image as /opt/astro; without Docker it runs from here. Its programs (`supervisor.py`,
`worker.py`, `trial_runner.py`) call the package `astro_inside`: astro_cli is not to be imported there.
"""
