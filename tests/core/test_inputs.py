"""What lies outside the workspace decides the key of what is made from it."""

from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.inputs import models_fingerprint


def test_a_model_folder_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    assert models_fingerprint({"cascade.helper.model": "", "delegation.reference": str(tmp_path)}).keys() == {
        "delegation.reference"
    }
    with pytest.raises(InputError, match=r"cascade\.helper\.model is 'nowhere', which is no folder"):
        models_fingerprint({"cascade.helper.model": "nowhere"})
