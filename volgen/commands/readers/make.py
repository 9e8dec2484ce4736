"""``volgen readers make``: generated and real volumes in, a page that does not tell which is which and a key that does out."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from volgen.commands.readers.montage import Montage, common_size, cut_slices, frames
from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.core.folder import claim
from volgen.core.manifest import Provenance
from volgen.core.progress import progress, say, say_next
from volgen.core.rng import permutation
from volgen.data.record import by_patient
from volgen.data.sources import Source, same_voxels, sources_of
from volgen.data.store import Store
from volgen.evaluation.readings import MARKS
from volgen.images.volume import Volume
from volgen.reporting import readers_page

FOR_READERS, KEY = "for-readers", "key.json"
PLANES = ("axial", "coronal", "sagittal")
TRIES = 500
"""Orders that are tried until no volume comes back too soon."""


@dataclass(frozen=True)
class Candidate:
    """A volume that may be shown.

    Attributes:
        source: how it is read.
        real: whether it is a scan.
    """

    source: Source
    real: bool


def make(
    samples: Path,
    real: Path | str,
    out: Path,
    *,
    split: str = "all",
    count: int = 40,
    repeats: float = 0.2,
    readers: int = 3,
    structures: Sequence[str] = (),
    slices: int = 15,
    seed: int | None = None,
) -> Path:
    """Writes a study: a page that tells nobody which volumes are real, and a key that does.

    Which volumes are shown, their order and which come twice follow from the seed. Everything that a reader gets is made of grey levels of
    slices and of that order: no name, no size, no time of a file.

    Args:
        samples: generated volumes.
        real: store of real scans.
        out: new folder.
        split: people of the store to choose from.
        count: volumes of each kind, at most.
        repeats: share of the volumes that come twice.
        readers: how many readers there are.
        structures: what gets a mark.
        slices: slices of each plane.
        seed: seed of choice and order; from the operating system if None.

    Returns:
        The page.

    Raises:
        UserError: there are fewer than two volumes of a kind, voxels differ in size, or ``out`` holds something else.
    """
    _check_names(structures)
    store = Store.open(real)
    generated = sources_of(samples)
    records = store.records if split == "all" else [record for record in store.records if record.split == split]
    people = by_patient(records)
    each = min(count, len(generated), len(people))
    if each < 2:
        found = f"{len(generated)} generated volumes and {len(people)} people in split '{split}'"
        raise UserError("volgen readers make", found, "at least two of each")
    config = {
        "samples": samples.name, "real": Path(real).name, "split": split, "count": count, "repeats": repeats, "readers": readers,
        "structures": list(structures), "slices": slices, "seed": seed,
    }  # fmt: skip
    provenance = Provenance("readers make", config, {"samples": {s.name: s.fingerprint() for s in generated}, "real": store.fingerprint})
    page = out / FOR_READERS / readers_page.NAME

    def differs(before: Mapping[str, Any]) -> str:
        same = (before.get("config"), before.get("inputs")) == (provenance.config, provenance.inputs)
        return "" if same and before.get("stage") == "readers make" else "holds another study or something else"

    with claim(out, provenance, "a study", writes=lambda name: name in (FOR_READERS, KEY), differs=differs) as folder:
        if folder.before is not None:
            say(f"{out} is finished; nothing to do.")
            return page
        folder.begin()
        secret = secrets.randbits(62) if seed is None else seed
        chosen = [Candidate(generated[place], False) for place in permutation(len(generated), secret, "generated")[:each]]
        visits = list(people.values())
        for place in permutation(len(visits), secret, "people")[:each]:
            record = visits[place][permutation(len(visits[place]), secret, "visit", place)[0]]
            chosen.append(Candidate(Source(record.id, record.id, partial(str, record.checksum), partial(store.read, record)), True))
        order = permutation(len(chosen), secret, "mixed")
        shown = [chosen[place] for place in order]
        twice = _twice(shown, repeats, secret)
        orders = {name: order_of(len(shown), twice, secret, name) for name in string.ascii_uppercase[:readers]}
        montages, edges = _cut(shown, slices)
        size = common_size(montages)
        across = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
        content: dict[str, Any] = {
            "marks": MARKS, "structures": list(structures), "slices": slices, "readers": orders, "asks": None,
            "planes": [
                {"name": name, "columns": size[a], "rows": size[b], "aspect": round(size[a] * edges[a] / (size[b] * edges[b]), 4)}
                for name, (a, b) in across.items()
            ],
        }  # fmt: skip
        stacks = [readers_page.encoded_planes(frames(montage, size)) for montage in montages]
        content["study"] = study_of(content, stacks)
        readers_page.write_study(page, content, stacks)
        write_json(out / KEY, {
            "study": content["study"], "seed": secret, "structures": list(structures), "twice": twice, "readers": orders,
            "volumes": [{"name": one.source.name, "real": one.real} for one in shown],
        })  # fmt: skip
        folder.finish(volumes=len(shown))
    say(f"{page}: {each} generated volumes and scans of {each} people, {len(twice)} of them twice, for {readers} readers")
    say(f"The page shows slices of {each} people of {Path(real).name}: if their scans are private, so is the page.")
    say(f"Give readers {out / FOR_READERS} and nothing else; {out / KEY} says which volumes are real.")
    say_next("volgen", "readers", "score", out, "ANSWERS", "--out", f"{out}-scores")
    return page


def _check_names(structures: Sequence[str]) -> None:
    for name in structures:
        if not name.strip() or len(name) > 60 or structures.count(name) > 1:
            raise UserError("--structures", f"'{name}'", "names of at most 60 letters, each once")


def _twice(shown: Sequence[Candidate], share: float, secret: int) -> list[int]:
    """Numbers of the volumes that come twice: as many real as generated ones."""
    found = []
    for real in (False, True):
        members = [number for number, one in enumerate(shown) if one.real is real]
        kept = permutation(len(members), secret, "twice", int(real))[: round(share * len(members))]
        found += [members[place] for place in kept]
    return sorted(found)


def order_of(count: int, twice: Sequence[int], secret: int, reader: str) -> list[int]:
    """Numbers of volumes in the order in which a reader sees them.

    Those that come again do so in the second half. Where it can be had, a quarter of all volumes lie between the two times.

    Args:
        count: volumes.
        twice: numbers of those that come twice.
        secret: seed of all orders.
        reader: whose order it is.
    """
    best: tuple[int, list[int]] = (-1, [])
    for attempt in range(TRIES):
        first = permutation(count, secret, "order", reader, attempt)
        head, tail = first[: count // 2], first[count // 2 :] + list(twice)
        order = head + [tail[place] for place in permutation(len(tail), secret, "again", reader, attempt)]
        gap = min((len(order) - 1 - order[::-1].index(number) - order.index(number) for number in twice), default=count)
        best = max(best, (gap, order))
        if gap >= count // 4:
            break
    return best[1]


def _cut(shown: Sequence[Candidate], slices: int) -> tuple[list[Montage], tuple[float, float, float]]:
    """Slices of all volumes, and the edges of their voxels in mm.

    Raises:
        UserError: edges differ.
    """
    montages: list[Montage] = []
    edges: tuple[float, float, float] | None = None
    with progress("slices", len(shown)) as ticker:
        for one in shown:
            volume: Volume = one.source.read()
            volume = volume.reoriented("RAS")
            edges = edges or volume.voxel_size
            same_voxels(one.source.name, volume.voxel_size, edges)
            montages.append(cut_slices(volume, slices))
            ticker.advance()
    assert edges is not None
    return montages, edges


def study_of(content: Mapping[str, Any], stacks: Sequence[str]) -> str:
    """Name of a study: a checksum of what readers get, so that it tells no more than that."""
    digest = hashlib.sha256(repr(sorted(content.items())).encode())
    for stack in stacks:
        digest.update(stack.encode())
    return digest.hexdigest()[:16]
