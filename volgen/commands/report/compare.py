"""``volgen report --compare``: several generators against the same real scans, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from volgen.commands.report.names import named
from volgen.commands.report.reference import Against, hint, tell
from volgen.commands.report.write import claim, write_report
from volgen.core import manifest
from volgen.core.files import write_json
from volgen.core.manifest import Provenance
from volgen.core.progress import say, say_next
from volgen.core.seal import sealed
from volgen.data.sources import sources_of
from volgen.evaluation.compare import compare as ranked
from volgen.reporting import compare_page, page
from volgen.reporting.summary import not_passed

FILES = {compare_page.NAME, compare_page.COMPARE, page.BANDS, compare_page.FOLDER, manifest.NAME}


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        page: the HTML file.
        order: names of the generators, best first.
        failed: number of volumes that do not pass (``other`` included) or cannot be read, over all generators.
    """

    page: Path
    order: list[str]
    failed: int

    @property
    def all_passed(self) -> bool:
        """Whether every volume of every generator passes and could be read."""
        return not self.failed


def compare(
    compare: Sequence[str], reference: Path | str, out: Path, *, strict: bool = False, split: str = "all", real_pictures: bool = True
) -> Comparison:
    """Judges the volumes of several generators by the same bands and ranks the generators.

    Args:
        compare: folders of images or stores, as ``FOLDER`` (called as the folder is) or ``NAME=FOLDER``.
        reference: a store of real scans, or the ``bands.json`` of an earlier report; read once.
        out: directory for ``compare.html``, ``compare.json``, ``bands.json``, the manifest, and ``generators/NAME/`` with a whole
            report of each.
        strict: whether the caller takes a volume that does not pass for a failure; the manifests say so.
        split: which people of a reference store the bands come from.
        real_pictures: whether the reports show slices of three people of a reference store.

    Raises:
        UserError: fewer than two generators, unusable names, or anything that a report of one of them would raise.
    """
    folders = named(compare)
    sources = {name: sources_of(folder) for name, folder in folders.items()}
    against = Against.find(reference, split, (source.read for found in sources.values() for source in found))
    prints = {name: {source.name: source.fingerprint() for source in sources[name]} for name in folders}
    config = {"reference": Path(reference).name, "split": split, "strict": strict, "real_pictures": real_pictures}
    provenance = Provenance(
        "report --compare", {"compare": {name: folder.name for name, folder in folders.items()}, **config},
        {"samples": prints, "reference": against.identity},
    )  # fmt: skip
    places = {name: out / compare_page.FOLDER / name for name in folders}
    manifests = {
        name: Provenance("report", {"samples": folder.name, **config}, {"samples": prints[name], "reference": against.identity})
        for name, folder in folders.items()
    }
    with ExitStack() as claimed:
        whole = claimed.enter_context(claim(out, provenance, FILES))
        parts = {name: claimed.enter_context(claim(places[name], manifests[name])) for name in folders}
        bands, sample, real = against.load(real_pictures)
        about = against.about(bands)
        tell(about["warnings"])
        whole.begin()
        write_json(out / page.BANDS, sealed(bands.to_json()))
        reports = {}
        for name, folder in folders.items():
            say(f"{name}:")
            # Each generator is a cohort of its own beside the same real volumes.
            own = deepcopy(sample)
            reports[name] = write_report(str(folder), sources[name], bands, about, own, parts[name], real)
        entries = ranked(reports, bands)
        for entry in entries:
            report = reports[entry["name"]]
            entry["folder"] = f"{compare_page.FOLDER}/{entry['name']}"
            entry["unread"] = len(report["unread"])
            entry["warnings"] = report["reference"]["warnings"][len(about["warnings"]) :]
            if "cohort" in report:
                entry["cohort"] = report["cohort"]
        write_json(out / compare_page.COMPARE, {"reference": about, "generators": entries, "metrics": bands.thresholds()})
        html = compare_page.write_page(out)
        whole.finish(generators=len(entries))
    for entry in entries:
        say(f"{entry['rank']}. {entry['text']}")
    hint(against, real, out / page.BANDS)
    say(f"see {html}")
    best = entries[0]["name"]
    say_next("volgen", "audit", f"RUN_OF_{best}", "--members", reference if against.store else "STORE", "--out", f"audit-{best}")
    failed = sum(not_passed(report["summary"]) for report in reports.values())
    return Comparison(html, [entry["name"] for entry in entries], failed)
