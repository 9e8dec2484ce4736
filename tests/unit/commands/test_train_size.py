"""What a dry run says of the preconditioner."""

from __future__ import annotations

from pathlib import Path

from volgen.commands.train.size import report
from volgen.recipe import load


def _line(config: Path, *overrides: tuple[str, str]) -> str:
    return next(line for line in report(load(config, overrides)).splitlines() if line.startswith("preconditioner"))


def test_a_dry_run_says_what_the_fitted_gaussian_takes(repository: Path) -> None:
    # 256^3 voxels: mean, variances and 6 fold means; 7 times 24 components of 64^3; the 24 variances do not show.
    expected = 4 * ((2 + 6) * 256**3 + 7 * 24 * 64**3)
    config = repository / "configs" / "brain256_experts200.yaml"
    sizes = [("preconditioner.levels", "2"), ("preconditioner.rank", "24"), ("preconditioner.folds", "6")]
    line = _line(config, *sizes, ("preconditioner.rank_level", "2"))
    assert f" {expected / 1e6:.3g} MB on each device while training" in line
    assert "GB on each device" in _line(config, *sizes, ("preconditioner.rank_level", "1"))
    assert _line(config, ("preconditioner.kind", "edm")).endswith("nothing to fit")
