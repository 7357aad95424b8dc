"""What executes a compiled model: one file for each runtime."""
