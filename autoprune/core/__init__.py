"""Floor 0: plain values and arithmetic, without torch."""
