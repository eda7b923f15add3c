"""The base class of every configuration object and of every JSON document that fpm writes."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable; a key that the class does not define is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
