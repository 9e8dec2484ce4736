"""``volgen report``: volumes and real scans in, a verdict on every volume out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from volgen.commands.report.reference import Against, hint, tell
from volgen.commands.report.write import claim, write_report
from volgen.core.manifest import Provenance
from volgen.core.progress import say, say_next
from volgen.data.sources import sources_of
from volgen.reporting import page
from volgen.reporting.summary import not_passed


@dataclass(frozen=True)
class Judged:
    """What a report found.

    Attributes:
        page: the HTML file.
        passed: number of volumes that pass.
        failed: number of volumes that do not pass: those that fail and those of another acquisition.
        unread: number of files that could not be read.
    """

    page: Path
    passed: int
    failed: int
    unread: int

    @property
    def all_passed(self) -> bool:
        """Whether every volume passes and every file could be read."""
        return not self.failed + self.unread


def report(
    samples: Path, reference: Path | str, out: Path, *, strict: bool = False, split: str = "all", real_pictures: bool = True
) -> Judged:
    """Compares volumes with real ones, slice by slice along three axes, and writes a report directory.

    Args:
        samples: a NIfTI or MGH file, a folder of them, or a store.
        reference: a store of real scans, or the ``bands.json`` that an earlier report made from one.
        out: directory for ``report.html``, ``report.json``, ``volumes.csv``, ``slices.csv``, ``bands.json``, pictures and the manifest.
        strict: whether the caller takes a volume that does not pass for a failure; the manifest says so.
        split: which people of a reference store the bands come from: ``all``, ``train``, ``validation`` or ``test``.
        real_pictures: whether slices of three people of a reference store are shown beside the volumes.

    Raises:
        UserError: nothing to judge, a voxel size that differs from the reference's, or a reference that cannot be used.
    """
    sources = sources_of(samples)
    against = Against.find(reference, split, (source.read for source in sources))
    inputs = {"samples": {source.name: source.fingerprint() for source in sources}, "reference": against.identity}
    config = {"samples": samples.name, "reference": Path(reference).name, "split": split, "strict": strict, "real_pictures": real_pictures}
    provenance = Provenance("report", config, inputs)
    with claim(out, provenance) as folder:
        bands, sample, real = against.load(real_pictures)
        about = against.about(bands)
        tell(about["warnings"])
        summary = write_report(str(samples), sources, bands, about, sample, folder, real)["summary"]
    html = out / page.NAME
    hint(against, real, out / page.BANDS)
    say(f"{summary['headline']}; see {html}")
    say_next("volgen", "report", "--compare", samples, "OTHERS", "--reference", reference, "--out", f"{out}-beside-others")
    return Judged(html, summary["passed"], not_passed(summary) - summary["unread"], summary["unread"])
