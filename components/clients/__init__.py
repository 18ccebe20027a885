"""Clients of external services, with protection against services that fail."""
