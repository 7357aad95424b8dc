"""Processes, files, the cache, plugins, user code, NVIDIA's driver."""
