"""Which formats are known, and which of them is this?"""

from pathlib import Path

from mypt_dist.config.problems import near_miss
from mypt_dist.data.foreign.dataset import ForeignDataset, Format
from mypt_dist.data.foreign.llmc import Llmc
from mypt_dist.data.foreign.megatron import Megatron
from mypt_dist.data.foreign.mypt_episodes import MyptEpisodes
from mypt_dist.data.foreign.mypt_pretraining import MyptPretraining
from mypt_dist.data.foreign.mypt_sft import MyptSft
from mypt_dist.data.foreign.nanogpt import NanoGpt
from mypt_dist.data.foreign.npy import Npy
from mypt_dist.data.manifest import FILE
from mypt_dist.errors import ConfigError

_KNOWN: tuple[Format, ...] = (MyptPretraining(), MyptSft(), MyptEpisodes(), NanoGpt(), Megatron(), Llmc(), Npy())
FORMATS: dict[str, Format] = {known.name: known for known in _KNOWN}


def open_foreign(path: Path, name: str | None = None) -> ForeignDataset:
    """The dataset of another program at ``path``, of the format ``name`` or of the only one that it can be.

    Raises `ConfigError` where it is none or could be several, and what the format itself raises.
    """
    if name is not None and name not in FORMATS:
        raise ConfigError(f"--from {name}: no such format{near_miss(name, FORMATS)} (known: {', '.join(FORMATS)})")
    if (path / FILE).is_file():
        raise ConfigError(f"{path} is a dataset of this program already: data.path may name it as it is")
    found = [known for known in FORMATS.values() if known.recognises(path)]
    if name is not None:
        if FORMATS[name] not in found:
            raise ConfigError(f"{path} holds no {FORMATS[name].title}{_instead(found)}")
        return FORMATS[name].open(path)
    match found:
        case [one]:
            return one.open(path)
        case []:
            known = "".join(f"\n  {known.name}: {known.title}" for known in FORMATS.values())
            raise ConfigError(f"{path} holds no dataset of a known format; known are{known}")
        case several:
            could = "".join(f"\n  --from {each.name}: {each.title}" for each in several)
            raise ConfigError(f"{path} could be more than one thing; say which:{could}")


def _instead(found: list[Format]) -> str:
    return f", but {' or '.join(known.title for known in found)}" if found else ""
