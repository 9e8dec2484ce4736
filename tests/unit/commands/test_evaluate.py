"""``volgen evaluate`` from files to files."""

from __future__ import annotations

import base64
import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from volgen import cli
from volgen.commands.evaluate.evaluate import evaluate
from volgen.core import manifest
from volgen.core.errors import UserError
from volgen.data.store import Store
from volgen.images import nifti
from volgen.images.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
FILES = {"evaluation.html", "evaluation.json", "numbers.csv", "figures", "manifest.json"}


@pytest.fixture
def samples(tmp_path: Path, blob_store: Path) -> Path:
    """Eight of the reference's own heads, as if they were generated."""
    folder, store = tmp_path / "samples", Store.open(blob_store)
    for index, record in enumerate(store.records[:8]):
        nifti.write(folder / f"sub-{index + 1:04d}_T1w.nii.gz", store.read(record))
    return folder


def numbers(out: Path) -> dict[str, dict]:
    content = json.loads((out / "evaluation.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    return {f"{one['kind']}.{number['name']}": number for one in content["comparisons"] for number in one["numbers"]}


def test_an_evaluation_has_its_files_and_its_keys(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["evaluate", str(samples), "--reference", str(blob_store), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert not manifest.verify(out)
    found = numbers(out)
    whole = found["frechet.whole"]
    assert whole["n"] == {"generated": 5, "real": 6, "fitted": 5} and "it takes 6" in whole["words"]
    assert whole["value"] is None and whole["floor"] is None and whole["inside"] is None
    litres = found["head.litres"]
    assert litres["n"] == {"generated": 8, "real": 8, "fitted": 0}
    assert litres["floor"]["band"][0] <= litres["value"] <= litres["floor"]["band"][1] and litres["inside"]
    assert litres["interval"][0] < litres["value"] < litres["interval"][1]
    with (out / "numbers.csv").open() as stream:
        rows = {f"{row['comparison']}.{row['name']}": row for row in csv.DictReader(stream)}
    assert {name for name in rows if not name.startswith("memorisation.people ")} == set(found) and len(rows) > len(found)
    assert float(rows["head.litres"]["value"]) == pytest.approx(litres["value"], rel=1e-4)
    content = json.loads((out / "evaluation.json").read_text())
    assert "Binkowski" in next(one["paper"] for one in content["comparisons"] if one["kind"] == "kid")
    assert all(len(one["sha256"]) == 64 and one["layer"] and one["preprocessing"] for one in content["extractors"].values())


def test_the_page_asks_for_nothing_and_figures_stand_alone(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate(samples, blob_store, out)
    html = (out / "evaluation.html").read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', html) and "default-src 'none'" in html
    assert html.count("<svg") == len(list((out / "figures").glob("*.svg"))) >= 6
    for path in (out / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "var(" not in path.read_text()


def test_the_page_shows_the_first_volumes_and_how_they_were_made(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    evaluate(samples, blob_store, tmp_path / "out")
    html = (tmp_path / "out" / "evaluation.html").read_text()
    picture = (tmp_path / "out" / "figures" / "volumes.png").read_bytes()
    assert base64.b64encode(picture).decode() in html
    assert "How the volumes were made" not in html, "nobody said"
    note = {"stage": "sample", "volgen_version": "9", "inputs": {"run": "f" * 64}, "seed": 3, "config": {"sampler": {"kind": "<heun>"}}}
    (samples / "manifest.json").write_text(json.dumps(note))
    evaluate(samples, blob_store, tmp_path / "noted")
    html = (tmp_path / "noted" / "evaluation.html").read_text()
    assert "How the volumes were made" in html and "kind: &lt;heun&gt;" in html and "f" * 64 in html
    assert (tmp_path / "noted" / "figures" / "volumes.png").read_bytes() == picture, "equal volumes, equal bytes"


def test_the_same_inputs_give_the_same_numbers_and_others_are_refused(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    evaluate(samples, blob_store, tmp_path / "a")
    evaluate(samples, blob_store, tmp_path / "b")
    evaluate(samples, blob_store, tmp_path / "b")
    assert (tmp_path / "a" / "evaluation.json").read_bytes() == (tmp_path / "b" / "evaluation.json").read_bytes()
    with pytest.raises(UserError, match="other settings"):
        evaluate(samples, blob_store, tmp_path / "b", seed=1)


def test_what_is_wrong_with_volumes_is_seen(samples: Path, blob_store: Path, tmp_path: Path) -> None:
    """Noise is fine detail, and a network of yours is an extractor as good as any."""
    noisy, random = tmp_path / "noisy", np.random.default_rng(0)
    for path in samples.iterdir():
        volume = nifti.read(path)
        noise = random.normal(size=volume.shape) * 0.3 * float(volume.voxels.max())
        nifti.write(noisy / path.name, Volume((volume.voxels + noise * (volume.voxels > 0)).astype(np.float32), volume.affine))
    network = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())).save(network)
    outcome = evaluate(noisy, blob_store, tmp_path / "out", extractor=network)
    found = numbers(tmp_path / "out")
    assert found["fine_detail.S"]["inside"] is False and found["fine_detail.S"]["value"] > found["fine_detail.S"]["floor"]["band"][1]
    assert {"frechet.network.S", "frechet.network.A", "frechet.network.R"} <= set(found)
    assert outcome.outside >= 1 and outcome.numbers["fine_detail.S"] == found["fine_detail.S"]["value"]


def test_bad_input_is_one_message(samples: Path, blob_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.pt").write_text("nothing")
    words = ["evaluate", str(samples), "--reference", str(blob_store), "--out", str(tmp_path / "x")]
    assert cli.main([*words, "--extractor", str(tmp_path / "no.pt")]) == 2
    assert "cannot be read as TorchScript" in capsys.readouterr().err
    one = tmp_path / "one"
    one.mkdir()
    (samples / "sub-0001_T1w.nii.gz").rename(one / "sub-0001_T1w.nii.gz")
    assert cli.main(["evaluate", str(one), *words[2:]]) == 2
    assert "at least 2 of each" in capsys.readouterr().err
