"""Checkpoints of other trainers: MyPT in all its formats, and nanoGPT.

`sources` finds and reads one, `layouts` says which of their tensors are which of ours, `moments` does so for the
optimizer, `tokenizing` finds the tokenizer, and `conversion` makes one of ours of it all.
"""
