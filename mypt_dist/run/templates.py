"""Which layout of conversations does a model know? That of the data it learned from, which its checkpoints name."""

from collections.abc import Iterable

from pydantic import TypeAdapter, ValidationError

from mypt_dist.chat import MYPT, AnyTemplate
from mypt_dist.checkpoint import Manifest
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.errors import CheckpointError
from mypt_dist.world import JSON

_TEMPLATE: TypeAdapter[AnyTemplate] = TypeAdapter(AnyTemplate)

KEY = "template"
"""In the ``data`` section of a manifest."""


def recorded_template(datasets: Iterable[DatasetManifest]) -> dict[str, JSON]:
    """For the manifests of a run: how the conversations in ``datasets`` are laid out; the first, if several."""
    found = [dataset.conversations.template for dataset in datasets if dataset.conversations is not None]
    return {KEY: found[0].model_dump(mode="json")} if found else {}


def template_of(manifest: Manifest) -> AnyTemplate:
    """The layout that the model of a checkpoint learned; `MYPT` where it learned none. Raises `CheckpointError`."""
    recorded = manifest.data.get(KEY)
    if recorded is None:
        return MYPT
    try:
        return _TEMPLATE.validate_python(recorded)
    except ValidationError as error:
        raise CheckpointError(f"the checkpoint's template of conversations cannot be used: {error}") from None
