"""Linear maps on tensors: their norms and spectra. They know nothing of layers, graphs or files."""
