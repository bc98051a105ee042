"""Deployments on engines in swarm mode: one host, or several nodes."""
