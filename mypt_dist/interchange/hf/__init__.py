"""Hugging Face: a folder that ``transformers`` loads, made of a checkpoint of ours, and the other way.

transformers itself is not needed: ``config.json``, safetensors and ``tokenizer.json`` are written and read here.
"""
