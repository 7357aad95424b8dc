"""Observers, and the ranges of activations that they find."""
