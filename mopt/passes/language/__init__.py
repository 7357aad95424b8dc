"""Passes of language models: checkpoint in, checkpoint out, one file each; they run in the environments of ``mopt tools``."""
