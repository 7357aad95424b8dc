"""Data in: readers, preprocessing, splits, observers and ranges."""
