"""Codes invert within half a step, and exactly where the source was integer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from volgen.data.quantise import decode, encode

FLOATS = arrays(np.float32, (4, 5, 3), elements=st.floats(-1e6, 1e6, width=32))


@settings(max_examples=80, deadline=None)
@given(FLOATS, st.sampled_from(["uint8", "uint16"]))
def test_the_error_is_at_most_half_a_step_and_nothing_is_clipped(values: np.ndarray, dtype: str) -> None:
    if np.ptp(values.astype(np.float64)) < 1e-3:
        return
    result = encode(values, dtype)  # type: ignore[arg-type]
    back = decode(result.codes, result.slope, result.inter)
    rounding = np.spacing(np.abs(values).max())
    assert result.codes.dtype == np.dtype(dtype)
    assert np.abs(back.astype(np.float64) - values).max() <= result.slope / 2 + rounding
    assert result.slope == float(np.float32(result.slope)) and result.inter == float(np.float32(result.inter))


@settings(max_examples=50, deadline=None)
@given(arrays(np.int32, (4, 5, 3), elements=st.integers(-32768, 32767)))
def test_int16_scans_come_back_exactly(values: np.ndarray) -> None:
    floats = values.astype(np.float32)
    if np.ptp(floats) == 0:
        return
    result = encode(floats, "uint16")
    assert result.slope == 1.0
    assert np.array_equal(decode(result.codes, result.slope, result.inter), floats)


@pytest.mark.parametrize("quantum", [(0.37, -12.5), (1e-3, 0.0), (-2.0, 7.0), (153.6, 1000.0)])
def test_scaled_integers_keep_their_step(quantum: tuple[float, float]) -> None:
    slope, inter = (float(np.float32(q)) for q in quantum)
    stored = np.random.default_rng(0).integers(-3000, 3000, (8, 8, 8))
    floats = (stored * slope + inter).astype(np.float32)
    result = encode(floats, "uint16", (slope, inter))
    back = decode(result.codes, result.slope, result.inter)
    assert np.abs(back - floats).max() <= 2e-6 * np.abs(floats).max()


def test_small_whole_numbers_are_their_own_codes() -> None:
    values = np.arange(200, dtype=np.float32).reshape(10, 10, 2)
    result = encode(values, "uint8")
    assert (result.slope, result.inter) == (1.0, 0.0) and np.array_equal(result.codes, values)
