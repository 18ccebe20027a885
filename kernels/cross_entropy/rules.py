"""What a call fixes for all of its rows."""

from typing import NamedTuple


class Rules(NamedTuple):
    """Plain numbers, so that they pass through ``torch.library`` one by one (``*rules``)."""

    columns: int  # the real vocabulary; columns from here on are padding
    call: int  # column of CALL, which lse_x leaves out; -1: there is none
    ignored: int  # target of rows that count for nothing
