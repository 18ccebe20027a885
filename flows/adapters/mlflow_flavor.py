"""A bundle in the form in which MLflow can run it: an ``MLmodel`` file, the code that answers, and the bundle inside.

    MLmodel, python_env.yaml, requirements.txt, conda.yaml, input_example.json    written by MLflow
    lacewing_pyfunc.py                                                            the definition (models from code)
    code/                                                                         the packages with the engine
    artifacts/bundle/                                                             the sealed files and their record

The requirements are what the engine's code imports, in the versions installed here, found as for the key of a stage. So
any machine can make the environment, and one that has it already serves with ``--env-manager local``.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from components.core.artifact import RECORD, Artifact
from components.core.packages import MISSING, environment_of
from components.core.reachability import FIRST_PARTY, PROJECT_ROOT, reach
from components.evaluation.artifacts import Scores
from flows.workspace import artifacts_with_content

if TYPE_CHECKING:
    import pandas
    from mlflow.models import ModelSignature

DEFINITION = Path(__file__).with_name("lacewing_pyfunc.py")
ANSWERS = "components.deployment.in_process:answer"
"""The function by which the definition answers: what it executes decides the requirements."""
BUNDLE = "artifacts/bundle"
EXAMPLE = "The"
MAX_TOKENS = 32
# Settings of the engine. Whoever loads the model may give others: load_model(..., model_config={"call_budget": 0}).
LOADING = {"device": "auto", "threads": 0, "call_budget": None, "helper_required": True}


def write_model(folder: Path, bundle: Artifact, model_id: str, run_id: str) -> None:
    """Write the MLflow model of ``bundle`` into ``folder``, which must be empty. The bundle's files are linked.

    Args:
        folder: where to.
        bundle: the sealed bundle.
        model_id: id of the logged model that this becomes.
        run_id: the run that made the bundle.
    """
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.models.model import MLMODEL_FILE_NAME
    from mlflow.pyfunc import MODEL_CODE_PATH
    from mlflow.pyfunc.model import (
        CONFIG_KEY_ARTIFACT_RELATIVE_PATH,
        CONFIG_KEY_ARTIFACT_URI,
        CONFIG_KEY_ARTIFACTS,
        CONFIG_KEY_CLOUDPICKLE_VERSION,
    )

    model = Model(run_id=run_id, model_id=model_id)
    pyfunc.save_model(
        path=str(folder),
        mlflow_model=model,
        python_model=str(DEFINITION),
        code_paths=[str(PROJECT_ROOT / package) for package in FIRST_PARTY],
        signature=signature_of(bundle),
        input_example=example_of(bundle),
        pip_requirements=requirements(),
        model_config=LOADING,
    )
    # ``save_model(artifacts=...)`` would copy the weights; here they are linked and named in the same way.
    _link(bundle, folder / BUNDLE)
    flavor = model.flavors[pyfunc.FLAVOR_NAME]
    flavor[CONFIG_KEY_ARTIFACTS] = {
        "bundle": {CONFIG_KEY_ARTIFACT_RELATIVE_PATH: BUNDLE, CONFIG_KEY_ARTIFACT_URI: BUNDLE}
    }
    flavor[MODEL_CODE_PATH] = (
        DEFINITION.name
    )  # MLflow reads only the name, and writes where the file lay on this machine
    flavor.pop(CONFIG_KEY_CLOUDPICKLE_VERSION)  # written even where nothing is pickled
    model.model_size_bytes = sum(file.bytes for file in bundle.record.files.values())
    model.save(str(folder / MLMODEL_FILE_NAME))


def signature_of(bundle: Artifact) -> "ModelSignature":
    """A prompt in; a text, its parts by author and the calls out; settings with the bundle's own budget as default."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    places = [Property("start", "long"), Property("end", "long")]
    span = Object([Property("author", "string"), *places, Property("text", "string")])
    policy = bundle.details.get("delegation") or {"budget": 0.0}
    return ModelSignature(
        inputs=Schema([ColSpec("string", "prompt")]),
        outputs=Schema(
            [
                ColSpec("string", "text"),
                ColSpec(Array(span), "spans"),
                ColSpec("long", "calls"),
                ColSpec("long", "failed_calls"),
                ColSpec("string", "finish_reason"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("call_budget", "double", float(policy["budget"])),
                ParamSpec("max_tokens", "long", MAX_TOKENS),
                ParamSpec("temperature", "double", 0.0),
                ParamSpec("seed", "long", 0),
            ]
        ),
    )


def example_of(bundle: Artifact) -> "pandas.DataFrame":
    """The beginning of a held-out text on which the model was assessed, if that is still in the workspace."""
    import pandas

    assessed = artifacts_with_content([bundle.record.identity.inputs.get("assessment", "")])
    prompts = [sample.prompt for each in assessed for sample in Scores.open(each.folder).samples() if sample.prompt]
    return pandas.DataFrame({"prompt": prompts[:1] or [EXAMPLE]})


def requirements() -> list[str]:
    """The distributions that the answering code depends on, in their installed versions, and MLflow itself."""
    from mlflow.version import VERSION

    found = environment_of(reach(ANSWERS).packages)
    names = [name for name, version in found.items() if version != MISSING and name not in ("python", "triton")]
    # As in pyproject.toml: which triton fits is for torch to say, and other systems have none.
    return [f"mlflow=={VERSION}", *(f"{name}=={found[name]}" for name in names), "triton; sys_platform == 'linux'"]


def _link(bundle: Artifact, folder: Path) -> None:
    """Just the sealed files and the record: what adapters wrote beside them stays here."""
    for name in (*bundle.record.files, RECORD):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(bundle.folder / name)
