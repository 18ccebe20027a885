import os
import subprocess
import sys

import pytest

# In a process of its own: both limits are read once. Products of 2 to 21 rows, and the same again.
MULTIPLIES = """
import os
import torch
from components.deployment.kept_products import limit_kept_products
from components.model.packed_product import product

limit_kept_products(1)
multiply = product(torch.ones(1040, 1024))  # smaller matrices are left to BLAS
with torch.inference_mode():
    for rows in [*range(2, 22), *range(2, 22)]:
        multiply(torch.ones(rows, 1024))
"""


@pytest.mark.parametrize(("chosen", "compiled"), [({}, 40), ({"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024"}, 20)])
def test_a_server_forgets_products_beyond_its_limit_unless_the_user_wants_more(
    chosen: dict[str, str], compiled: int
) -> None:
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"ONEDNN_VERBOSE": "2", **chosen}
    command = [sys.executable, "-c", MULTIPLIES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    lines = [line for line in done.stdout.splitlines() if "create:cache_miss" in line and "inner_product" in line]
    assert len(lines) == compiled
