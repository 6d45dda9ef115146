"""The layer graph: frozen nodes in ONNX's vocabulary, and what every format turns into."""
