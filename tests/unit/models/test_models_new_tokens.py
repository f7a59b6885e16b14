"""Rows of tokens that a trained model does not know yet."""

import torch

from mypt_dist.models.layers.weights import rows_for_new_tokens


def test_new_tokens_take_little_from_the_old_ones_and_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 32, generator=generator) * 0.5 + torch.randn(32, generator=generator)
    hidden = torch.randn(64, 32, generator=generator)
    new = rows_for_new_tokens(rows, 8, generator)
    assert (new.shape, new.dtype) == ((8, 32), rows.dtype)
    before, grown = torch.softmax(hidden @ rows.T, -1), torch.softmax(hidden @ torch.cat([rows, new]).T, -1)
    assert (grown[:, 500:].sum(-1) < before.max(-1).values).all(), "none is likelier than what was learned"
    assert grown[:, 500:].sum() < 0.03 * len(hidden), "eight of 508 tokens get no more than their share"
    assert torch.cdist(new, new).fill_diagonal_(1).min() > 0.05
    again = rows_for_new_tokens(rows.bfloat16(), 8, torch.Generator().manual_seed(1))
    assert again.dtype == torch.bfloat16
