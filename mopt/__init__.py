"""Ahead-of-time model compiler and optimiser."""
