"""Settings of the stage ``compare``. Imports neither torch nor numpy."""

from pydantic import Field, NonNegativeInt

from components.evaluation.config import BootstrapConfig


class ComparisonConfig(BootstrapConfig):
    """Two or more evaluated models, side by side on the same examples."""

    tasks: list[str] = Field(default_factory=list)
    """Compare on these tasks of the evaluations only; empty: on all, which must then be the same ones."""
    examples: NonNegativeInt = 3
    """Examples won, and examples lost, that the report shows for each task; all of them are kept in a file."""
