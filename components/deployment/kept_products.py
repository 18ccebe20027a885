"""How many prepared matrix products a server keeps: their memory grows with use, and would look like a leak.

oneDNN compiles a product for each shape, which a server meets once for each matrix and each number of rows (tokens of
one pass), and keeps the last 1,024: half a megabyte each, however small the model. With the usual limit a small server
grows by 250 MB over its first thousands of requests. torch's adapter to it keeps descriptions in a store of its own.
"""

import os

# A block has four matrices, and the scores are one more; the rest is for passes that read a prompt too.
_FOR_EACH_SLOT = 8
# Read by torch's adapter and by oneDNN, both at their first product, so it is not too late once torch is imported.
_DESCRIPTIONS, _PRODUCTS = "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_ENTRIES_OF_A_PRODUCT = 2


def limit_kept_products(slots: int) -> None:
    """Keep those that a server of so many ``slots`` needs again and again, unless the user has chosen otherwise.

    Without effect after the first product of this process. One that is not kept costs a pass about a third of a
    millisecond for each matrix of a block.
    """
    kept = _FOR_EACH_SLOT * slots
    os.environ.setdefault(_DESCRIPTIONS, str(kept))
    os.environ.setdefault(_PRODUCTS, str(_ENTRIES_OF_A_PRODUCT * kept))
