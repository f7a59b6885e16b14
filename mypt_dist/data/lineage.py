"""What was a dataset made of, and by what? Recorded when it is made, drawn as a tree when somebody asks."""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mypt_dist.data.entries import Ancestor, Lineage, MadeBy, Parent, SourceEntry
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.installed import installed_version


@cache
def tools() -> dict[str, str]:
    """Names and versions of what decides how text becomes tokens."""
    return {
        "python": platform.python_version(),
        **{name: installed_version(name) or "not installed" for name in ("mypt-dist", "numpy", "tiktoken")},
    }


def made(made_by: MadeBy, parents: Iterable[tuple[Path, DatasetManifest]] = ()) -> Lineage:
    """The lineage of a dataset that is made now. ``parents``: the datasets it is made of, and where they are."""
    parents = list(parents)
    ancestors: dict[str, Ancestor] = {}
    for _, manifest in parents:
        ancestors |= manifest.lineage.ancestors if manifest.lineage else {}
        ancestors[manifest.fingerprint] = _as_ancestor(manifest)
    named = tuple(Parent(path=str(path), fingerprint=manifest.fingerprint) for path, manifest in parents)
    return Lineage(made_by=made_by, tools=tools(), parents=named, ancestors=ancestors)


def summary(manifest: DatasetManifest) -> dict[str, Any]:
    """What a checkpoint says of the lineage of its data: what made it, and which datasets and inputs it came from."""
    lineage = manifest.lineage
    entries = [manifest.sources, *(ancestor.sources for ancestor in (lineage.ancestors if lineage else {}).values())]
    inputs = {source.sha256 for sources in entries for source in sources if source.sha256}
    return {
        "made_by": lineage.made_by if lineage else "prepare",
        "tools": dict(lineage.tools) if lineage else {},
        "parents": [parent.fingerprint for parent in lineage.parents] if lineage else [],
        "inputs": sorted(inputs),
    }


MAX_DEPTH = 100
"""Of a tree that is shown. Every append makes a dataset one deeper."""


@dataclass(frozen=True, slots=True)
class Node:
    """A dataset in the tree of a lineage."""

    path: str
    fingerprint: str
    made_by: str
    tools: Mapping[str, str]
    settings: Mapping[str, Any]
    sources: tuple[SourceEntry, ...]
    parents: tuple["Node", ...]
    is_cut: bool = False
    """Its parents are left out: they stand elsewhere in the tree, or too deep."""

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "path": self.path,
            "fingerprint": self.fingerprint,
            "made_by": self.made_by,
            "tools": dict(self.tools),
            "settings": dict(self.settings),
            "inputs": [source.model_dump(mode="json") for source in self.sources],
            "parents": [parent.to_json() for parent in self.parents],
            **({"cut": True} if self.is_cut else {}),
        }


def lineage_tree(folder: Path, manifest: DatasetManifest) -> Node:
    """The dataset in ``folder`` and everything it was made of."""
    ancestors = dict(manifest.lineage.ancestors) if manifest.lineage else {}
    return _node(Parent(path=str(folder), fingerprint=manifest.fingerprint), _as_ancestor(manifest), ancestors, set())


def _node(
    place: Parent, own: Ancestor | None, ancestors: Mapping[str, Ancestor], seen: set[str], depth: int = 0
) -> Node:
    """``seen``: what stands in the tree already. A lineage that names itself, which only a forger writes, ends so."""
    own = own or Ancestor(made_by="prepare", tools={}, settings={}, sources=())
    is_cut = bool(own.parents) and (place.fingerprint in seen or depth == MAX_DEPTH)
    seen.add(place.fingerprint)
    parents = () if is_cut else own.parents
    return Node(
        place.path,
        place.fingerprint,
        own.made_by,
        own.tools,
        own.settings,
        own.sources,
        tuple(_node(parent, ancestors.get(parent.fingerprint), ancestors, seen, depth + 1) for parent in parents),
        is_cut,
    )


def _as_ancestor(manifest: DatasetManifest) -> Ancestor:
    lineage = manifest.lineage
    return Ancestor(
        made_by=lineage.made_by if lineage else "prepare",
        tools=lineage.tools if lineage else {},
        settings=manifest.settings,
        sources=manifest.sources,
        parents=lineage.parents if lineage else (),
    )
