"""Requests compared with the samples that a model was calibrated and judged with."""
