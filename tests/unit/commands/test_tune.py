"""Settings of a guidance are looked for on validation people, and what is found is what reconstruct takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from volgen import cli
from volgen.commands.tune.space import Space, space_of
from volgen.commands.tune.trials import Trial
from volgen.core.errors import UserError
from volgen.core.search import Search
from volgen.sampling.guidances.dds import Config as DDS
from volgen.sampling.guidances.pigdm import Config as PiGDM
from volgen.sampling.samplers.ddpm import Config as DDPM
from volgen.sampling.samplers.renoise import Config as Renoise


def volgen(*words: str | Path | int | float) -> int:
    return cli.main([str(word) for word in words])


def search(trials: int, seed: int, stopped_at: int = 0) -> list[Trial]:
    """A search for the top of a hill at gamma 30, share 0.25."""
    space = space_of(DDS(), Renoise(), ())
    found = list[Trial]()
    for number in range(trials):
        values = space.ask(list(found), seed, number)
        height = -((math.log10(values["guidance.gamma"]) - math.log10(30.0)) ** 2) - (values["sampler.share"] - 0.25) ** 2
        found.append(Trial(values, None if number == stopped_at else height))
    return found


def test_trials_climb_a_hill_and_each_follows_from_the_seed_and_those_before() -> None:
    found = search(40, seed=3)
    assert found[0].values == {"guidance.gamma": DDS().gamma, "sampler.share": Renoise().share}, "the first is what was asked for"
    assert found == search(40, seed=3) and found[1] != search(2, seed=4)[1]
    best = max((one for one in found if one.score is not None), key=lambda one: one.score or 0.0)
    assert abs(math.log10(best.values["guidance.gamma"] / 30.0)) < 0.35 and abs(best.values["sampler.share"] - 0.25) < 0.2
    late = [one.score for one in found[20:] if one.score is not None]
    assert sum(late) / len(late) > sum(one.score or 0.0 for one in found[1:9]) / 8, "later trials are better than the even ones"


def test_what_can_be_looked_for() -> None:
    space = space_of(DDS(), Renoise(), ("guidance.iterations=2:9",))
    assert space.whole == {"guidance.iterations"}
    asked = {space.ask([Trial(space.first, 0.0)], 0, number)["guidance.iterations"] for number in range(1, 20)}
    assert asked <= {2, 3, 4, 5, 6, 7, 8, 9} and len(asked) > 3
    guidance, sampler = space.put(DDS(), Renoise(share=0.5), {"guidance.iterations": 7.0})
    assert guidance.iterations == 7 and sampler.share == 0.5
    for words, pattern in (
        (("guidance.gama=1:2",), "gamma"), (("guidance.gamma=2:1",), "lower first"), (("gamma",), "KEY=LOW:HIGH"),
        (("guidance.gamma=0:1:log",), "logarithms"), (("guidance.gamma=1:2:lin",), "KEY=LOW:HIGH"), (("guidance.kind=1:2",), "no number"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=pattern):
            space_of(DDS(), Renoise(), words)
    with pytest.raises(UserError, match="wants tuning"):
        space_of(PiGDM(), DDPM(), ())
    assert Space({"guidance.gamma": Search(1.0, 2.0)}, frozenset(), {}).told == {"guidance.gamma": [1.0, 2.0, "even"]}


def test_settings_are_tuned_continued_and_taken_by_reconstruct(
    made_by_0_1_0: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made_by_0_1_0)
    words = ("tune", "runs/finished", "--simulate", "cohort.zarr", "--operator", "inpaint", "--guidance", "projection", "--people", 1,
             "--steps", 2, "--device", "cpu")  # fmt: skip
    assert volgen(*words, "--out", "whole", "--trials", 4) == 0
    assert volgen(*words, "--out", "parts", "--trials", 2) == 0
    assert volgen(*words, "--out", "parts", "--trials", 4) == 0
    trials, parts = (json.loads(Path(out, "trials.json").read_text())["trials"] for out in ("whole", "parts"))
    assert trials == parts and len(trials) == 4
    best = yaml.safe_load(Path("whole/best.yaml").read_text())
    top = max(trials, key=lambda one: one["score"])
    assert best["guidance"]["strength"] == top["values"]["guidance.strength"] and best["steps"] == 2
    manifest = json.loads(Path("whole/manifest.json").read_text())
    assert manifest["complete"] and set(manifest["files"]) == {"best.yaml", "trials.json"} and manifest["inputs"]["store"]
    assert manifest["config"]["simulate"] == {"split": "validation"}

    measured = ("reconstruct", "runs/finished", "--simulate", "cohort.zarr", "--split", "train", "--people", 1, "--operator", "inpaint",
                "--count", 1, "--device", "cpu", "--settings", "whole/best.yaml")  # fmt: skip
    assert volgen(*measured, "--out", "taken") == 0
    config = json.loads(Path("taken/manifest.json").read_text())["config"]
    assert config["guidance"]["strength"] == best["guidance"]["strength"] and len(config["sigma_grid"]) == 2
    # What is asked for wins, and another kind has nothing of the file's.
    assert volgen(*measured, "--out", "won", "--guidance.strength", 0.5, "--steps", 3) == 0
    config = json.loads(Path("won/manifest.json").read_text())["config"]
    assert config["guidance"]["strength"] == 0.5 and len(config["sigma_grid"]) == 3

    capsys.readouterr()
    assert volgen(*words, "--out", "other", "--split", "test") == 2 and "no test any more" in capsys.readouterr().err
    assert volgen(*words, "--out", "whole", "--seed", 3) == 2 and "other trials" in capsys.readouterr().err
    Path("whole/trials.json").write_text('{"trials": []}')
    assert volgen(*words, "--out", "whole", "--trials", 4) == 2 and "trials.json" in capsys.readouterr().err
    Path("wrong.yaml").write_text("guidence: {kind: projection}\n")
    assert volgen(*measured[:-1], "wrong.yaml", "--out", "none") == 2 and "guidance" in capsys.readouterr().err
