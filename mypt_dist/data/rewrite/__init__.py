"""Datasets made of datasets: appended to, merged, split."""
