"""Codes in files: packed into bytes, by a codebook, in a checkpoint (notebook 08)."""
