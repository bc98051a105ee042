"""Ordered steps over the adapters, which they know by their Protocols."""
