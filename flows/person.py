"""Who is at the keyboard: decisions of people are recorded with a name."""

import getpass
import os


def person() -> str:
    """The user's name, or number in a container whose user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
