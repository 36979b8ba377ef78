"""Difference potentials."""
