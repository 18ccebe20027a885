"""Adapters to Prefect, MLflow and DVC. Each knows its service and the artifacts, and none of the flows that use it."""
