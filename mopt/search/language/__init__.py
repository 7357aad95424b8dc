"""Candidates and trials of language models."""
