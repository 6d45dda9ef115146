"""Graph -> numbers: layer by layer, through the whole network, and what clipping must change."""
