"""Who looks into pickles in tests: this process, which saves seconds for each file. weights_only holds here, too."""

import json
import os
from collections.abc import Sequence

from mypt_dist.interchange.torch_files.outline import outline
from mypt_dist.interchange.trainers.conversion import Options


def in_process(descriptors: Sequence[int]) -> bytes:
    lines = []
    for descriptor in descriptors:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            lines.append(json.dumps(outline(file), allow_nan=False).encode())
    return b"\n".join(lines)


QUICK = Options(outline=in_process)
