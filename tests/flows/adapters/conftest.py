"""The real bundles of the deployment tests: what is registered here must also answer."""

from tests.deployment.conftest import asking, delegated, fact

__all__ = ["asking", "delegated", "fact"]
