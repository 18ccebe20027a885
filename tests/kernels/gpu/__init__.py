"""What only a GPU can show: tf32, races, shared memory, compiled code. ``pytest -m gpu``, with torch and triton."""

import pytest
import torch

NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
