"""What is written of people: templates, a frozen encoder that is known by its checksum, and what is not told."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from volgen import cli
from volgen.core.errors import UserError
from volgen.models import sentences
from volgen.models.condition import asked_for
from volgen.models.conditions.text import Config
from volgen.runs.conditions import conditions_of
from volgen.runs.trained import open_run

OLD = {"id": "a", "covariates": {"age": "70", "sex": "F"}}
WORDS = {"sex": {"F": "woman", "M": "man"}}
SAID = ("brain of a {age} year old {sex}",)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A tiny BERT with random weights."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "encoder"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "brain", "of", "a", "70", "30", "year", "old", "woman", "man"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )  # fmt: skip
    transformers.BertModel(settings).save_pretrained(folder)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(folder)
    return folder


def test_people_are_described_by_a_template_of_their_own_in_the_words_of_the_configuration() -> None:
    config = Config(templates=SAID, words=WORDS)
    assert config.text(OLD) == "brain of a 70 year old woman"
    for covariates in ({"age": "70"}, {"age": "n/a", "sex": "F"}, {}):
        assert config.text({"covariates": covariates}) == "" and math.isnan(config.value({"covariates": covariates}))  # type: ignore[arg-type]
    several = Config(templates=(*SAID, "a {sex} of {age}"), words=WORDS)
    said = {several.text({**OLD, "id": str(number)}) for number in range(20)}
    assert said == {"brain of a 70 year old woman", "a woman of 70"}
    assert several.text(OLD) == several.text(OLD) and several.columns == ["age", "sex"] and several.covariate == "age"
    with pytest.raises(ValidationError, match="says the same of everybody"):
        Config(templates=("a brain",))


def test_a_prompt_is_the_mean_of_the_last_layer_at_length_1_and_known_by_the_weights(encoder: Path) -> None:
    config = Config(templates=SAID, words=WORDS, encoder=str(encoder))
    assert not config.settled
    known = config.settle([OLD])
    assert known.settled and known.width == 16 and known.edges == (16,)
    told = asked_for([known], {"prompt": "brain of a 70 year old woman"}).values["prompt"]
    assert torch.equal(told[0], torch.tensor(known.value(OLD)))
    transformers = pytest.importorskip("transformers")
    model, tokenizer = transformers.AutoModel.from_pretrained(encoder), transformers.AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        states = model.eval()(**tokenizer("brain of a 70 year old woman", return_tensors="pt")).last_hidden_state[0].mean(dim=0)
    torch.testing.assert_close(told[0], states / states.norm(), atol=1e-6, rtol=1e-5)
    other = asked_for([known], {"prompt": "brain of a 30 year old man"}).values["prompt"]
    assert float((told - other).norm()) > 1e-3 and asked_for([known], {"prompt": "n/a"}).values["prompt"].isnan().all()
    assert known.build(8)(torch.cat([told, other])).shape == (2, 8)

    weights = encoder / sentences.WEIGHTS
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    sentences._loaded.cache_clear()
    sentences.embedding.cache_clear()
    with pytest.raises(UserError, match="training began with"):
        asked_for([known], {"prompt": "brain"})
    with pytest.raises(ValueError, match="not "):
        known.settle([OLD])


def test_an_encoder_that_moved_is_found_beside_the_run_or_where_somebody_says(encoder: Path, tmp_path: Path) -> None:
    known = Config(templates=SAID, words=WORDS, encoder=str(encoder)).settle([OLD])
    expected, beside = known.value(OLD), tmp_path / "runs"
    assert known.placed([beside]) is known, "where it was"
    (beside / "run").mkdir(parents=True)
    encoder.rename(beside / "encoder")
    gone = known.placed([tmp_path])
    assert gone is known
    sentences._loaded.cache_clear()
    sentences.embedding.cache_clear()
    with pytest.raises(UserError, match=r"there is no sentence encoder in .*say where it lies now: --encoder FOLDER"):
        asked_for([gone], {"prompt": "brain of a 70 year old man"})
    found = known.placed([beside / "run", beside])
    assert found.places == [str(beside / "encoder")] and found.value(OLD) == expected
    shutil.copytree(beside / "encoder", tmp_path / "named")
    assert known.placed([], tmp_path / "named").value(OLD) == expected
    weights = beside / "encoder" / sentences.WEIGHTS
    save_file({name: tensor + 0.01 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    assert known.placed([beside]) is known, "another encoder of the same name"
    with pytest.raises(ValueError, match=r"has weights .*, not "):
        known.placed([], beside / "encoder")


def test_commands_take_the_encoder_of_a_run_and_no_other(encoder: Path, made_by_0_1_0: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = Config(templates=SAID, words=WORDS, encoder=str(encoder)).settle([OLD])
    plain = open_run(made_by_0_1_0 / "runs/finished")
    told = replace(plain, recipe=plain.recipe.model_copy(update={"conditions": (known,)}))
    moved = encoder.rename(made_by_0_1_0 / "runs/encoder")
    assert [list(each) for each in conditions_of(plain, told)] == [[], [known.placed([], moved)]]
    assert conditions_of(plain, told, encoder=moved)[1][0].places == [str(moved)]
    with pytest.raises(UserError, match=r"--encoder: there is no sentence encoder in .*elsewhere"):
        conditions_of(told, encoder=moved.with_name("elsewhere"))
    words = ["sample", str(plain.directory), "--out", str(made_by_0_1_0 / "new"), "--count", "1", "--encoder", str(moved)]
    assert cli.main(words) == 2 and "the run was told nothing by one" in capsys.readouterr().err


def test_what_cannot_be_said_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no sentence encoder in ''"):
        Config().settle([OLD])
    folder: Any = tmp_path / "made-up"
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, folder / sentences.WEIGHTS)
    (folder / sentences.SIZES).write_text(json.dumps({"hidden_size": 4}))
    config = Config(encoder=str(folder))
    with pytest.raises(ValueError, match="of none of 1 scans everything is known"):
        config.settle([{"covariates": {"age": "70"}}])
    known = config.settle([OLD])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the transformers library .*volgen\[text\]"):
        asked_for([known], {"prompt": "a brain"})


def test_a_template_that_says_nothing_of_anybody_is_refused_and_so_are_words_of_no_column(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / sentences.WEIGHTS)
    (tmp_path / sentences.SIZES).write_text(json.dumps({"hidden_size": 4}))
    people = [{**OLD, "id": str(number)} for number in range(8)]
    assert Config(templates=SAID, encoder=str(tmp_path)).settle(people).settled
    with pytest.raises(ValueError, match=r"of none of 8 scans everything is known that '\{hand\} of \{age\}' asks for: age, hand"):
        Config(templates=(*SAID, "{hand} of {age}"), encoder=str(tmp_path)).settle(people)
    with pytest.raises(ValueError, match="makes 4 numbers of a text, not 5"):
        Config(templates=SAID, encoder=str(tmp_path), width=5).settle(people)
    for text, message in (
        ("[4]", "does not say hidden_size"),
        ('{"hidden_size": 0}', "does not say hidden_size"),
        ("{", "cannot be read as"),
    ):
        (tmp_path / sentences.SIZES).write_text(text)
        with pytest.raises(ValueError, match=message):
            Config(templates=SAID, encoder=str(tmp_path)).settle(people)
    with pytest.raises(ValidationError, match="how 'gender' is said, but templates ask for age, sex only"):
        Config(templates=SAID, words={"gender": {"F": "woman"}})


def test_nothing_of_an_encoders_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may bring code of its own, and the library asks on the terminal whether to run it, unless it is told not to."""
    save_file({"a": torch.zeros(1)}, tmp_path / sentences.WEIGHTS)
    (tmp_path / sentences.SIZES).write_text(json.dumps({"hidden_size": 4}))
    asked: list[dict[str, Any]] = []

    class Library:
        @staticmethod
        def from_pretrained(folder: str, **settings: Any) -> None:
            asked.append(settings)
            raise ValueError("it has code of its own")

    library: Any = type(sys)("transformers")
    library.AutoModel = library.AutoTokenizer = Library
    monkeypatch.setitem(sys.modules, "transformers", library)
    with pytest.raises(ValueError, match="cannot be read"):
        sentences.embedding(str(tmp_path), sentences.about(str(tmp_path))[0], "a brain")
    assert asked == [{"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}]
