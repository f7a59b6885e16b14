"""The pieces that architectures share. Nothing is imported here: discovering architectures must not load torch."""
