"""A folder of trials: whose it is, what was tried, and the best of it as a file that ``volgen reconstruct`` takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from volgen.core import folder as folders
from volgen.core import manifest
from volgen.core.config import dump_yaml
from volgen.core.errors import UserError
from volgen.core.files import check_digest, read_json, write_json, write_text
from volgen.runs.instrument import as_told
from volgen.runs.settings import Settings
from volgen.runs.trained import TrainedRun

BEST, TRIALS = "best.yaml", "trials.json"
DO = "delete the folder, or choose another --out"


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
        values: numbers by dotted key.
        score: what they came to; None where a volume was not finite.
    """

    values: Mapping[str, float]
    score: float | None


class Trials:
    """A folder of trials.

    Args:
        out: the folder.
        trained: the run.
        settings: what decides the trials.
        inputs: fingerprints of what was measured, beside that of the run.
        seed: seed of all of it.
    """

    def __init__(self, out: Path, trained: TrainedRun, settings: Mapping[str, Any], inputs: Mapping[str, str], seed: int) -> None:
        self._out, self._run = out, trained
        fingerprints = {"run": trained.fingerprint, **inputs}
        self._provenance = manifest.Provenance("tune", dict(settings), fingerprints, seed, measured=trained.recipe.privacy.measured)
        self._folder: folders.Folder | None = None

    @contextmanager
    def claim(self, trials: int) -> Iterator[list[Trial]]:
        """Has the folder to itself; gives the trials that are in it.

        Raises:
            UserError: it is something else, another process is writing to it, or the trials were changed.
        """
        provenance = self._provenance
        mine = {"stage": "tune", "config": provenance.config, "inputs": provenance.inputs, "seed": provenance.seed}

        def differs(before: Mapping[str, Any]) -> str:
            known = {**before, "config": as_told(before.get("config"), provenance.config)}
            different = [key for key, value in mine.items() if known.get(key) != value]
            return f"holds other trials (its manifest has another '{different[0]}')" if different else ""

        with folders.claim(
            self._out, provenance, "trials", writes=lambda name: name in (BEST, TRIALS), differs=differs,
            expected="an empty or new directory, or the same run, store, --seed, --guidance, --search and so on to continue",
            keeps=lambda: (self._out / TRIALS).is_file(),
        ) as folder:  # fmt: skip
            if TRIALS in folder.files and folder.before is not None and folder.before.get(folders.COMPLETE):
                check_digest(self._out / TRIALS, folder.files[TRIALS], manifest.NAME, what="trials that were made before", do=DO)
            found = self._read()
            folder.begin(requested={"trials": trials})
            self._folder = folder
            yield found

    def keep(self, found: Sequence[Trial]) -> None:
        """Writes what was tried so far."""
        write_json(self._out / TRIALS, {"trials": [asdict(one) for one in found]})

    def finish(self, found: Sequence[Trial], guidance: Any, sampler: Any, steps: int | None) -> None:
        """Writes the best settings and the manifest."""
        assert self._folder is not None, "the folder is claimed"
        best = Settings(guidance=guidance.model_dump(mode="json"), sampler=sampler.model_dump(mode="json"), steps=steps)
        write_text(self._out / BEST, dump_yaml(best))
        self._folder.finish(requested={"trials": len(found)}, run_name=self._run.recipe.name)

    def _read(self) -> list[Trial]:
        path = self._out / TRIALS
        if not path.is_file():
            return []
        try:
            trials = [Trial(dict(one["values"]), one["score"]) for one in read_json(path, "trials")["trials"]]
            assert all(isinstance(one.score, float | None) for one in trials)
        except (AssertionError, KeyError, TypeError, ValueError):
            raise UserError(str(path), "has another form", "trials that volgen tune wrote", DO) from None
        return trials
