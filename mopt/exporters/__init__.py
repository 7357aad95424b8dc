"""Any source to ONNX: one file for each framework."""
