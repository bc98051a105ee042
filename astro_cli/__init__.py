"""astro: a developer CLI with a local Apache Airflow sandbox."""

__version__ = "0.1.0"
"""Equal to the version in pyproject.toml, which a test holds; reading package metadata would cost a fifth of
`astro version`."""
