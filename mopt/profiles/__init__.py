"""How fast is it: targets, machines, measuring, paired runs."""
