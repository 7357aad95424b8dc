"""Serving systems, one file each."""
