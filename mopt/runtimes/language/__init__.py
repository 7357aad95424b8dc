"""Runtimes of language models: what executes a checkpoint token by token, one file each."""
