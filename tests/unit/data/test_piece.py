"""The box around the foreground, and the conversion of codes, against the plain way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from volgen.data.convert import SMALL, codes_to_model, codes_to_unit, contiguous
from volgen.data.piece import foreground
from volgen.data.record import SubjectRecord
from volgen.data.store import Store


@pytest.fixture
def record(blob_store: object) -> SubjectRecord:
    return replace(Store.open(blob_store).records[0], shape=(70, 80, 60))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("background", [0, 7])
def test_the_box_holds_all_that_is_not_the_minimum(record: SubjectRecord, order: str, background: int) -> None:
    codes = np.full(record.shape, background, np.uint16, order=order)  # type: ignore[call-overload]
    codes[0:9, 30, 20:50] = 40000
    codes[5, 12:33, 59] = 300
    piece = foreground(codes, record)
    assert piece.start == (0, 11, 19) and tuple(piece.voxels_XYZ.shape) == (10, 23, 41) and piece.shape == record.shape
    volume = torch.full(record.shape, piece.fill)
    volume[0:10, 11:34, 19:60] = piece.voxels_XYZ
    assert torch.equal(volume, torch.from_numpy(codes_to_model(codes, record)))
    empty = foreground(np.full(record.shape, background, np.uint16), record)
    assert tuple(empty.voxels_XYZ.shape) == (1, 1, 1)


@pytest.mark.parametrize("order", ["C", "F"])
def test_codes_are_converted_as_one_formula_would(record: SubjectRecord, order: str) -> None:
    codes = np.asarray(np.random.default_rng(0).integers(0, 2**16, record.shape, np.uint16), order=order)  # type: ignore[call-overload]
    assert codes.size > SMALL
    width = record.intensity.high - record.intensity.low
    plain = codes * np.float32(record.slope / width) + np.float32((record.inter - record.intensity.low) / width)
    unit = codes_to_unit(codes, record)
    assert unit.flags.c_contiguous and unit.dtype == np.float32 and np.array_equal(unit, np.clip(plain, 0, 1))
    assert np.array_equal(codes_to_model(codes, record), unit * 2 - 1)
    assert np.array_equal(contiguous(codes), codes) and contiguous(codes).flags.c_contiguous
