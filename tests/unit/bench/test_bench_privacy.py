"""The table of `volgen bench privacy` follows from its rows, and every arm trains."""

from __future__ import annotations

import pytest

from volgen.bench import privacy
from volgen.bench.privacy import ARMS, CASES, MEASURES
from volgen.bench.privacy.arms import Exercised


def test_ratios_are_to_ordinary_training_that_holds_one_volume() -> None:
    found = {arm: [Exercised(number + 1.0, 2.0 * (number + 1), (number + 1) << 20, (number + 1) << 19)] for number, arm in enumerate(ARMS)}
    rows = privacy._rows(CASES[0], found)
    assert len(rows) == len(ARMS) * len(MEASURES)
    private = next(row for row in rows if row.name.endswith("private, one patient: peak"))
    assert list(private.ratio_to.values()) == [3.0, 1.5]
    lines = privacy.table(rows).splitlines()
    assert len(lines) == 2 + len(ARMS)
    assert lines[4].endswith("| 3 | 6 | 3 | 2 | 1.50 | 1.50 | 1.50 | 1.50 |")
    assert lines[3].endswith("| 1.00 | 1.00 | 1.00 | 1.00 |")


@pytest.mark.slow
def test_every_arm_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = privacy.PrivacyCase("tiny", 8, 2, {"kind": "wavelet_unet3d", "channels": [8], "norm_groups": 4})
    monkeypatch.setattr(privacy, "CASES", (tiny,))
    rows = privacy.run(privacy.Config(cases=1, rounds=1))
    assert len(rows) == len(ARMS) * len(MEASURES) and all(row.value > 0 for row in rows)
