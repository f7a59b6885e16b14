"""Datasets behind URLs: their shards are fetched ahead of training, verified, and kept in a cache of this machine."""
