"""Dry run: which stages of a flow would run, and why. Keys follow from configuration, code and inputs alone."""

from collections.abc import Callable

from flows.stage import FlowRun, start_flow_run


def plan(flow: str, preset: str, overrides: list[str]) -> FlowRun:
    """Say for each stage of ``flow`` whether it would run; nothing is run and nothing is written."""
    from flows.assess import assess_model
    from flows.compare import compare_selections
    from flows.delegate import delegate_model
    from flows.label import label_facts
    from flows.prepare import prepare_data
    from flows.pretrain import pretrain_model
    from flows.release import whole_line

    def up_to_assess(run: FlowRun) -> None:
        data = prepare_data(run)
        assess_model(run, delegate_model(run, data).model, data)

    lines: dict[str, Callable[[FlowRun], object]] = {
        "prepare": prepare_data,
        "pretrain": lambda run: pretrain_model(run, prepare_data(run)),
        "label": lambda run: label_facts(run, prepare_data(run)),
        "delegate": lambda run: delegate_model(run, prepare_data(run)),
        "compare": lambda run: compare_selections(run, prepare_data(run)),
        "assess": up_to_assess,
        "release": whole_line,
        "pipeline": whole_line,
    }
    with start_flow_run(flow, preset, overrides, dry=True) as run:
        lines[flow](run)
        return run
