"""The deployments as a person finds them: names that say what they do, and nothing left of former ones."""

from prefect import flow
from prefect.client.orchestration import get_client

from conf.compose import choices
from flows.catalogue import flows
from flows.deployments import TAG, deployments, forget_former
from flows.workspace import make_workspace


def test_each_has_a_name_of_its_own_and_says_what_it_does() -> None:
    found = {deployment.name: str(deployment.description) for deployment in deployments()}
    further = len(choices("experiment")) - 1 + len(choices("finetune")) - 1  # of the pipeline, and of finetuning
    assert len(found) == len(flows()) + further
    assert {"pipeline-world", "pipeline-text", "pipeline-pydoc", "prepare", "release"} <= found.keys()
    assert "raw text to a served, registered model" in found["pipeline-text"]
    assert "- `text`: Your own text" in found["pipeline-text"]
    assert "`world`" not in found["pipeline-text"]
    for experiment in ("world", "text", "pydoc"):
        assert f"- `{experiment}`: " in found["pretrain"]
    assert "for example `trainer.max_steps=500`" in found["pretrain"]


def test_each_way_of_finetuning_has_a_form_that_stands_at_it() -> None:
    found = {deployment.name: deployment for deployment in deployments()}
    for choice in choices("finetune"):
        deployment = found[f"finetune-{choice}"]
        assert deployment.parameters == {"preset": "world", "overrides": [f"finetune={choice}"]}
        assert f"`finetune={choice}`: A model that" in str(deployment.description)


def test_former_deployments_go_and_those_of_others_stay() -> None:
    make_workspace()

    @flow(name="prepare")
    def prepare() -> None: ...

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(prepare)
        former = client.create_deployment(flow_id, "any-preset", tags=[TAG])
        current = client.create_deployment(flow_id, "prepare", tags=[TAG])
        foreign = client.create_deployment(flow_id, "nightly", tags=["mine"])
        forget_former(deployments())
        left = {each.id for each in client.read_deployments()}
    assert current in left
    assert foreign in left
    assert former not in left
