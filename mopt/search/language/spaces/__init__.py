"""Candidates of language models, one family of runtimes a file."""
