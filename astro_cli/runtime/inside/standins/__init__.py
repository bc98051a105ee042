"""The programs behind the services that astro brings.

They run in an environment of their own (images/services.lock), in a container or beside a standalone sandbox,
hence: nothing of astro_cli.
"""
