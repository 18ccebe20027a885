"""Settings of the closed world."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class WorldConfig(BaseModel):
    """How large the closed world is and how unevenly it is talked about."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = Field(default=0, ge=0)
    """Seed of every name, fact and sentence; the same seed gives the same bytes."""
    entities: int = Field(default=800, ge=20, le=1_000_000)
    """People, places, works and events together; about 15 facts each."""
    documents_per_entity: float = Field(default=2.5, ge=1, le=1000)
    """Mean number of documents about one entity. Each entity has one that tells all its facts; the rest go by
    popularity."""
    zipf_exponent: float = Field(default=1.0, ge=0, le=2)
    """Popularity of the entity of rank r is r to the minus this power; 0 makes all equally popular."""
    questions: PositiveInt = 1000
    """Questions to write, drawn without replacement, popular entities more often (as 1 / rank); fewer if the world has
    fewer facts."""
