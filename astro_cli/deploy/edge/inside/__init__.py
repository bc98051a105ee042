"""What runs inside deployed containers and those of workers outside: a layer on the project's image."""
