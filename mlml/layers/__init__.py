"""Layers shared by networks."""
