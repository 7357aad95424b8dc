"""A model: its files, its signature, its graph, and samples for it."""
