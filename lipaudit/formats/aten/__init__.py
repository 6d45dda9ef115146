"""ATen: torch's own operations, as torch.export writes them, in the graph's vocabulary."""
