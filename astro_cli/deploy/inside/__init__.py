"""What runs inside deployed containers, under Airflow's Python: copied to /opt/astro/deploy of the engine image."""
