"""From a prompt to more text: cached, batched, streamed, reproducible."""

from mypt_dist.generation.ids import generate_ids, stream_ids
from mypt_dist.generation.sampling import PRESETS, SamplingConfig, sampling_from
from mypt_dist.generation.text import generate_text

__all__ = ["PRESETS", "SamplingConfig", "generate_ids", "generate_text", "sampling_from", "stream_ids"]
