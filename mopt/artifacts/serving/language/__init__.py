"""Serving systems of language models, one file each."""
