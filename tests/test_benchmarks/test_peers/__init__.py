"""The contest with other quantizers: its files, figures, tables and environments; ONNX Runtime's quantizer for real."""
