"""Data in: readers, preprocessing, the split into calibration and evaluation."""
