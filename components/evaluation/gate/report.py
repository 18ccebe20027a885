"""The page of the gate: the verdict, and every metric of both models."""

from components.evaluation.gate.verdict import Finding, Verdict

_VERDICT = {"promote": "Promoted", "hold": "Held back: the champion stays", "refuse": "Refused"}


def gate_report(verdict: Verdict) -> str:
    """Markdown for people."""
    lines = [f"# {_VERDICT[verdict.outcome]}", "", f"{verdict.reason}.", ""]
    rows = [_row(finding) for finding in verdict.findings if finding.challenger is not None]
    if rows:
        lines += [
            "Both models as they are served, on the same held-out documents, questions and subjects.",
            "",
            "| metric | challenger | champion | difference | interval | role | shown |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    return "\n".join(lines)


def _row(finding: Finding) -> str:
    metric = finding.definition
    assert finding.challenger is not None
    champion = metric.written(finding.champion) if finding.champion is not None else ""
    difference = interval = ""
    if finding.difference is not None:
        estimate, low, high = (metric.difference(value) for value in finding.difference)
        difference, interval = estimate, f"{low} to {high}"
    shown = finding.fault or finding.shown or ""
    cells = [metric.label, metric.written(finding.challenger), champion, difference, interval, finding.role, shown]
    return "| " + " | ".join(cells) + " |"
