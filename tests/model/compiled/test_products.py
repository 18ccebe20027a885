import numpy as np
import pytest

from components.model.compiled.basics import TILE
from components.model.compiled.products import ADD, PUT, multiply, put_in_panels, put_transposed

RANDOM = np.random.default_rng(0)


def matrix(rows: int, columns: int) -> np.ndarray:
    return RANDOM.standard_normal((rows, columns)).astype(np.float32)


def panels_of(inputs: int, outputs: int) -> np.ndarray:
    return np.full((-(-outputs // TILE), inputs, TILE), np.nan, dtype=np.float32)


@pytest.mark.parametrize("rows", range(1, 15))  # every way in which rows are divided
@pytest.mark.parametrize("outputs", [TILE, 3 * TILE - 5])
def test_a_product_is_that_of_numpy(rows: int, outputs: int) -> None:
    left, right = matrix(rows, 21), matrix(21, outputs)
    panels = panels_of(21, outputs)
    put_in_panels(right, np.float32(2.0), panels)
    out = np.full((rows, len(panels) * TILE), np.nan, dtype=np.float32)
    multiply(left, panels, out, PUT)
    np.testing.assert_allclose(out[:, :outputs], left @ right * 2, rtol=1e-5, atol=1e-5)
    assert not out[:, outputs:].any()
    multiply(left, panels, out, ADD)
    np.testing.assert_allclose(out[:, :outputs], left @ right * 4, rtol=1e-5, atol=1e-5)


def test_both_sides_may_be_transposed() -> None:
    left, right = matrix(21, 9), matrix(40, 21)
    panels = panels_of(21, 40)
    put_transposed(right, panels)
    out = np.zeros((9, len(panels) * TILE), dtype=np.float32)
    multiply(left.T, panels, out, PUT)
    np.testing.assert_allclose(out[:, :40], left.T @ right.T, rtol=1e-5, atol=1e-5)


def test_a_row_has_the_same_bits_among_any_others() -> None:
    left, panels = matrix(13, 21), panels_of(21, TILE)
    put_in_panels(matrix(21, TILE), np.float32(1.0), panels)
    together, alone = np.empty((13, TILE), dtype=np.float32), np.empty((1, TILE), dtype=np.float32)
    multiply(left, panels, together, PUT)
    for row in range(13):
        multiply(left[row : row + 1], panels, alone, PUT)
        assert np.array_equal(alone[0], together[row])
