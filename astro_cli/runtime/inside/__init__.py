"""What runs beside Airflow, under its Python: the standard library alone, nothing of astro_cli."""
