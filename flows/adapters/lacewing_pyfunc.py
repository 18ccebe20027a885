"""What MLflow runs of a registered model: ``mlflow.pyfunc.load_model`` and ``mlflow models serve`` execute this file.

A copy of it lies in every registered model ("models from code": nothing is pickled), beside the bundle and a copy of
the engine. So it imports neither ``flows`` nor anything heavy before a model is loaded.
"""

from pathlib import Path
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class AskingModel(PythonModel):  # type: ignore[misc]  # MLflow is not typed
    """Continues prompts with the bundle's model and its helper, and says who wrote which part."""

    def load_context(self, context: Any) -> None:
        """Load the bundle, every file checked against its digest, and open its helper."""
        from components.deployment.engine import Engine

        self._engine = Engine(Path(context.artifacts["bundle"]), **context.model_config)

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """One row for each row of the column ``prompt``; the signature says what ``params`` and the answer hold."""
        from pydantic import ValidationError

        from components.core.errors import InputError
        from components.deployment.in_process import answer, requests_of

        try:
            requests = requests_of(self._engine, _prompts(model_input), **(params or {}))
            answers = answer(self._engine, requests)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        except ValidationError as error:
            faults = [f"{each['loc'][0]}={each['input']!r}: {each['msg']}" for each in error.errors()]
            raise MlflowException.invalid_parameter_value("; ".join(faults)) from error
        return pandas.DataFrame([{**vars(each), "spans": [span._asdict() for span in each.spans]} for each in answers])


def _prompts(table: pandas.DataFrame) -> list[str]:
    """The texts of the column; MLflow makes one row of ``{"prompt": ["a", "b"]}``, which means two prompts."""
    prompts: list[str] = table["prompt"].explode().tolist()
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise MlflowException.invalid_parameter_value(f"a prompt must be a text, got {prompt!r}")
    return prompts


set_model(AskingModel())
