"""What everything else stands on: errors, paths, processes, files, waiting. Knows nothing of Airflow."""
