"""astro: a developer CLI with a local Apache Airflow sandbox."""
