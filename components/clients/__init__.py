"""Clients of services that other people run, and what keeps a failing one from stopping us."""
