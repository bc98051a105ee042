"""Engines: what runs a sandbox. `engine.py` is the Protocol; the other modules are its implementations."""
