"""Measuring a trained model: on datasets, and on tasks of the lm-evaluation-harness."""
