"""What our DAGs share: the stock room's hook and operator, and how it goes for the people who run Airflow."""
