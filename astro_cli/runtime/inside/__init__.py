"""What runs beside Airflow, under its Python, so that nothing of astro_cli may be imported.

And at import nothing but the standard library, except for pytest in `astro_pytest.py` and what `standins` are made
of. Copied into the engine image as /opt/astro; without Docker it runs from here. Its programs (`supervisor.py`,
`worker.py`, `trial_runner.py`) call the package `astro_inside`.
"""
