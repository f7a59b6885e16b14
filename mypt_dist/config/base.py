"""The base of every schema: immutable, closed to keys it does not know, and without NaN."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, closed schema. Attribute docstrings become the descriptions of the JSON Schema."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
