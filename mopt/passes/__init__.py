"""Model in, model out: one file for each pass."""
