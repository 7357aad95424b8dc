"""How fast is it: targets, measuring, the batching model."""
