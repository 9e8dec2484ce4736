"""Numbers and words of people: read, settled by a cohort, embedded, and with gradients of single patients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import volgen
from volgen.models.condition import asked_for, conditioned
from volgen.models.conditions import categorical, continuous
from volgen.models.networks import wavelet_unet3d
from volgen.privacy.per_sample import PerSample, differs

AGE = continuous.Config(centre=50.0, spread=20.0)
SEX = categorical.Config(levels=("F", "M"))
NETWORK = wavelet_unet3d.Config(channels=(8, 8), norm_groups=4)


def person(**columns: str) -> dict[str, Any]:
    return {"id": "sub-a", "covariates": columns}


def test_a_number_is_told_in_spreads_and_nobody_is_given_a_mean() -> None:
    assert [AGE.value(person(age=age)) for age in ("50", "70", "30", "89+")] == [0.0, 1.0, -1.0, pytest.approx(1.95)]
    assert math.isnan(AGE.value(person())) and math.isnan(AGE.value({})) and math.isnan(AGE.value(person(age="old")))
    assert AGE.parse("70") == 1.0 and math.isnan(AGE.parse("n/a"))
    for text in ("old", "inf"):
        with pytest.raises(ValueError, match="no finite number"):
            AGE.parse(text)


def test_a_word_is_told_by_its_place_and_others_are_not_told() -> None:
    assert [SEX.value(person(sex=sex)) for sex in ("F", "M")] == [0.0, 1.0]
    assert math.isnan(SEX.value(person(sex="x"))) and math.isnan(SEX.value(person())) and math.isnan(SEX.parse("n/a"))
    with pytest.raises(ValueError, match="expected one of F, M"):
        SEX.parse("f")
    assert asked_for([AGE, SEX], {"sex": "M"}).values["sex"].tolist() == [1.0]
    with pytest.raises(ValueError, match="all different"):
        categorical.Config(levels=("F", "F"))


def test_a_cohort_settles_what_is_left_out_and_says_little_of_anybody() -> None:
    people = [person(age=str(age), sex=sex) for age, sex in ((41, "M"), (43, "F"), (67.25, "M"), (80, "F"))] + [person()]
    found = continuous.Config().settle(people)
    ages = torch.tensor([41, 43, 67.25, 80])
    assert found.settled and not continuous.Config().settled
    assert (found.centre, found.spread) == (round(float(ages.mean())), float(f"{float(ages.std()):.2g}"))
    assert continuous.Config(centre=50.0).settle(people).centre == 50.0
    assert categorical.Config().settle(people).levels == ("F", "M") and not categorical.Config().settled
    for config in (continuous.Config(), categorical.Config(), continuous.Config(column="weight")):
        with pytest.raises(ValueError, match=r"'(age|sex|weight)'"):
            config.settle([person(age="30", sex="F")] * 3)
    assert AGE.unlike(None) == "" and "categorical" in AGE.unlike({"young", "old"})
    assert SEX.unlike({"F", "M", "o"}) == "" and "'F'" in SEX.unlike({"female", "male"})


def test_what_is_told_is_embedded_smoothly_and_levels_apart() -> None:
    torch.manual_seed(0)
    module = AGE.build(16)
    values = torch.linspace(-2, 2, 81)
    embedded = module(values)
    steps = (embedded[1:] - embedded[:-1]).norm(dim=1)
    assert steps.max() < 0.2 and steps.min() > 0.0
    rows = SEX.build(16)(torch.tensor([0.0, 1.0, 1.0]))
    assert torch.equal(rows[1], rows[2]) and not torch.allclose(rows[0], rows[1])
    assert not conditioned(torch.nn.Identity(), [AGE], 4).state_dict()["embed_untold.of_age.weight"].any()


def test_gradients_of_single_patients_are_those_of_passes_of_their_own() -> None:
    """Also of the layers that embed what is told, and of those for what is not."""
    torch.manual_seed(0)
    network = conditioned(NETWORK.build(inputs=1), [AGE, SEX], NETWORK.embedding)
    told = {"age": torch.tensor([0.3, math.nan, -1.0]), "sex": torch.tensor([0.0, 1.0, math.nan])}
    x, noise = torch.randn(3, 1, 8, 8, 8), torch.tensor([-0.3, 0.4, 0.1])
    assert differs(network, x, noise, told) == ""
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.2
    network.train()
    each = PerSample(network)
    loss_B = network(*each.inputs(x, noise), told).square().mean(dim=(1, 2, 3, 4))
    gradients = dict(zip((name for name, _ in network.named_parameters()), each.gradients(loss_B, 3), strict=True))
    each.close()
    age, untold = gradients["embed_told.of_age.1.weight"], gradients["embed_untold.of_age.weight"]
    assert [bool(row.any()) for row in age] == [True, False, True] and [bool(row.any()) for row in untold] == [False, True, False]


def test_their_keys_are_explained() -> None:
    said = volgen.explain("conditions")
    assert all(word in said for word in ("categorical", "continuous", "conditions[].centre", "conditions[].levels"))
    assert "conditions[].spread" in volgen.explain("conditions.continuous") and "levels" not in volgen.explain("conditions.continuous")
    assert "of categorical, continuous" in volgen.explain("conditions.drop")
