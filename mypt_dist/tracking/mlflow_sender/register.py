"""A model goes to MLflow: logged with the run that trained it, and registered under a name."""

from pathlib import Path
from typing import TYPE_CHECKING

from mypt_dist.errors import ConfigError
from mypt_dist.tracking.mlflow_sender.model_record import ModelRecord, ModelVersion
from mypt_dist.tracking.mlflow_sender.remote import Refused, RunGone, Unreachable
from mypt_dist.tracking.mlflow_sender.settings import URI_VARIABLE, environment, resolve_uri
from mypt_dist.tracking.mlflow_sender.state import SenderState, read_state
from mypt_dist.tracking.mlflow_sender.sync import kept_uri, with_environment
from mypt_dist.tracking.redact import scrub, without_secrets

if TYPE_CHECKING:
    from mypt_dist.tracking.mlflow_sender.mlflow_store import MlflowStore


def register_model(model: ModelRecord, run_dir: Path, uri: str | None = None) -> ModelVersion:
    """Send ``model`` to the store that ``run_dir`` was shipped to, or to ``uri``, and register it there.

    It is linked to the run where the store knows it. Raises `ConfigError` where the store does not take it, or fails.
    """
    state = read_state(run_dir) or SenderState(experiment="mypt")
    address = resolve_uri(uri or kept_uri(state))
    client_uri, variables = environment(address)
    # To find what a version is made of, MLflow asks the store of the environment, not the one it was given.
    with with_environment({**variables, URI_VARIABLE: client_uri}):
        from mypt_dist.tracking.mlflow_sender.mlflow_store import MlflowStore  # noqa: PLC0415 - imports mlflow

        store = MlflowStore(client_uri, state.experiment or "mypt")
        try:
            return store.add_model(model, _living(store, state.run_id))
        except (Refused, Unreachable, RunGone) as error:
            raise ConfigError(
                f"{model.folder} is complete, but {without_secrets(address)} did not take it as {model.name!r}: "
                f"{scrub(str(error))}"
            ) from None


def _living(store: "MlflowStore", run_id: str | None) -> str | None:
    """The run, unless this store does not know it."""
    if run_id is None:
        return None
    try:
        return store.get(run_id).run_id
    except RunGone:
        return None
