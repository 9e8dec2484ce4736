"""``volgen evaluate``: a cohort of volumes and real scans in, numbers with floors and intervals out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volgen.commands.evaluate.look import look
from volgen.core import folder as folders
from volgen.core.errors import UserError
from volgen.core.files import make_folder, read_json, synced_together, write_json
from volgen.core.manifest import NAME as MANIFEST
from volgen.core.manifest import Provenance
from volgen.core.progress import say, say_next
from volgen.data.sources import sources_of
from volgen.data.store import Store
from volgen.evaluation.evaluate import compare_all, extractors
from volgen.reporting import evaluation_page
from volgen.reporting.overview import write_overview

FILES = evaluation_page.FILES
FEWEST = 2


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        page: the HTML file.
        inside: number of measured numbers that lie inside the band of real people.
        outside: number of those that do not.
        numbers: value by ``comparison.name``; None where there were too few volumes.
    """

    page: Path
    inside: int
    outside: int
    numbers: Mapping[str, float | None]


def evaluate(
    samples: Path,
    reference: Path | str,
    out: Path,
    *,
    split: str = "all",
    extractor: Path | None = None,
    segmenter: str | Mapping[str, object] | None = None,
    seed: int = 0,
) -> Evaluated:
    """Measures generated volumes as a cohort.

    Args:
        samples: a NIfTI or MGH file, a folder of them, or a store.
        reference: a store of real scans.
        out: directory for ``evaluation.html``, ``evaluation.json``, ``numbers.csv``, ``figures/`` and the manifest.
        split: which people of the store are compared with: ``all``, ``train``, ``validation`` or ``test``.
        extractor: TorchScript network that distances are taken in too.
        segmenter: what tells structures apart, such as ``{"kind": "labels", ...}``; anatomy is not measured without one.
        seed: seed of the draws of people.

    Raises:
        UserError: volumes or store cannot be read, voxels differ, or there are fewer than two of either.
    """
    sources = sources_of(samples)
    store = Store.open(reference)
    chosen = [record for record in store.records if split in ("all", record.split)]
    people = list({record.patient: record for record in reversed(chosen)}.values())[::-1]
    if min(len(sources), len(people)) < FEWEST:
        found = f"{len(sources)} volumes, and {len(people)} people in split {split} of {Path(str(reference)).name}"
        raise UserError(str(samples), found, f"at least {FEWEST} of each")
    more: list[dict[str, object]] = [{"kind": "network", "path": extractor}] if extractor else []
    if segmenter is not None:
        more.append({"kind": "anatomy", "segmenter": {"kind": segmenter} if isinstance(segmenter, str) else dict(segmenter)})
    used = extractors(*more)
    declared = {one.kind: dict(one.declared()) for one in used}
    inputs = {
        "samples": {source.name: source.fingerprint() for source in sources}, "reference": store.fingerprint,
        "extractors": {kind: one["sha256"] for kind, one in declared.items()},
    }  # fmt: skip
    config = {"samples": samples.name, "reference": Path(str(reference)).name, "split": split, "seed": seed}
    provenance = Provenance("evaluate", config, inputs, seed)

    def differs(before: Mapping[str, Any]) -> str:
        same = before.get("inputs") == provenance.inputs and before.get("config") == provenance.config
        return "" if same else "holds an evaluation of other volumes, another reference or other settings"

    with folders.claim(out, provenance, "an evaluation", writes=lambda name: name in FILES, differs=differs) as folder:
        folder.begin()
        both, middles = look(samples, sources, store, people, used, seed)
        compared = [one.to_json() for one in compare_all(both)]
        content = {
            "generated": {"name": samples.name, "volumes": len(sources), "made": drawn_with(samples)},
            "reference": {
                "name": Path(str(reference)).name, "fingerprint": store.fingerprint, "split": split, "people": len(people),
                "trained": int(both.trained.sum()), "voxel_size": list(store.records[0].voxel_size),
                "shape": store.shape and list(store.shape),
            },
            "seed": seed, "extractors": declared,
            "odd": dict(both.odd), "comparisons": compared,
        }  # fmt: skip
        with synced_together():
            write_json(out / evaluation_page.EVALUATION, content)
            make_folder(out / evaluation_page.FIGURES)
            write_overview(
                out / evaluation_page.PICTURES, middles, store.records[0].voxel_size, f"{samples.name}: generated volumes, middle slices"
            )
            page = evaluation_page.write_page(out)
        folder.finish(volumes=len(sources))
    numbers = {f"{one['kind']}.{number['name']}": number for one in compared for number in one["numbers"]}
    inside, outside = (sum(number["inside"] is side for number in numbers.values()) for side in (True, False))
    say(f"{inside} of {inside + outside} numbers lie where real people are among themselves; see {page}")
    say_next("volgen", "report", samples, "--reference", reference, "--out", f"{out}-slices")
    return Evaluated(page, inside, outside, {name: number["value"] for name, number in numbers.items()})


def drawn_with(samples: Path) -> dict[str, Any] | None:
    """How volgen drew the volumes, as their folder's manifest has it: version, run, seed and settings; None if somebody else did."""
    if not (samples / MANIFEST).is_file():
        return None
    content = read_json(samples / MANIFEST, "the manifest of samples")
    if not isinstance(content, dict) or content.get("stage") != "sample":
        return None
    return {key: content.get(key) for key in ("volgen_version", "inputs", "seed", "config")}
