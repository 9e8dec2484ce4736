"""Experts of several models in one recipe: what each network of the plan is made of, starts from and is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from volgen.commands.plan.settings import Cluster, Planner, disk_bytes
from volgen.commands.train import crew, size
from volgen.core.config import apply_overrides, dump_yaml, validate
from volgen.core.errors import UserError
from volgen.core.registry import config_class
from volgen.recipe import Recipe, load

SMALL = {"kind": "wavelet_unet3d", "channels": [4], "norm_groups": 2}
MODELS: list[dict[str, Any]] = [
    {"points": [1, 2], "network": {"kind": "slice_unet2d", "channels": [4], "norm_groups": 2}},
    {"points": 2, "level": 1, "stopping": {"max_steps": 7}, "batch_size": 8},
    {"points": [1, 2], "level": 2, "optimiser": {"learning_rate": 0.01}},
]
BASE: dict[str, Any] = {
    "name": "run", "data": {"store": "store", "shape": [16, 16, 16], "batch_size": 4}, "schedule": {"kind": "karras", "points": 8},
    "network": SMALL, "preconditioner": {"kind": "gaussian", "levels": 2, "rank_level": 2}, "stopping": {"max_steps": 5},
}  # fmt: skip


def recipe(models: Any = MODELS, **overrides: Any) -> Recipe:
    experts = {"models": models, **overrides.pop("experts", {})}
    return validate(Recipe, {**BASE, "experts": experts, **overrides}, "test")


def test_count_and_points_follow_and_each_phase_knows_its_model() -> None:
    made = recipe()
    assert (made.experts.count, made.experts.points, made.experts.alike) == (5, (1, 2, 2, 1, 2), (2, 1, 2))
    phases = {phase.name: phase for phase in made.phases()}
    assert {name: phase.model for name, phase in phases.items()} == {"0": 0, "1": 0, "2": 1, "3": 2, "4": 2}
    assert [len(phases[name].points) for name in "01234"] == [1, 2, 2, 1, 2]
    assert [(made.of(p).level, made.of(p).network.kind, made.of(p).data.batch_size) for _, p in sorted(phases.items())] == [
        (0, "slice_unet2d", 4), (0, "slice_unet2d", 4), (1, "wavelet_unet3d", 8), (2, "wavelet_unet3d", 4), (2, "wavelet_unet3d", 4),
    ]  # fmt: skip
    assert [made.rule(phases[name]).max_steps for name in "0124"] == [5, 5, 7, 5]
    assert [made.of(phases[name]).piece for name in "024"] == [(16, 16, 16), (8, 8, 8), (4, 4, 4)]
    assert [made.of(phases[name]).optimiser.learning_rate for name in "24"] == [made.optimiser.learning_rate, 0.01]


def test_weights_pass_on_among_experts_of_one_model_only() -> None:
    starts = {phase.name: phase.start for phase in recipe().phases()}
    assert starts == {"4": None, "3": "4", "2": None, "1": None, "0": "1"}
    upwards = {phase.name: phase.start for phase in recipe(experts={"order": "low_to_high"}).phases()}
    assert upwards == {"0": None, "1": "0", "2": None, "3": None, "4": "3"}
    shared = recipe(experts={"shared_steps": 3})
    assert {phase.name: phase.start for phase in shared.phases()} == {
        "shared-0": None, "shared-1": None, "shared-2": None, "4": "shared-2", "3": "4", "2": "shared-1", "1": "shared-0", "0": "1",
    }  # fmt: skip
    assert [len(phase.points) for phase in shared.phases() if phase.index is None] == [3, 2, 3]
    from_shared = recipe(experts={"shared_steps": 3, "warm_start": "shared"})
    assert {phase.start for phase in from_shared.phases() if phase.index in (0, 1)} == {"shared-0"}
    assert recipe(experts={"groups": 3}).experts.at_a_time == 3
    with pytest.raises(UserError, match="only 3 of the experts can be trained at a time"):
        recipe(experts={"groups": 4})


def test_where_a_phase_begins_in_the_data_follows_from_the_steps_of_those_before_it() -> None:
    def firsts(made: Recipe) -> dict[str, int]:
        return {phase.name: crew._first_batch(made, phase) for phase in made.phases()}

    assert firsts(recipe()) == {"4": 0, "3": 5, "2": 10, "1": 17, "0": 22}
    each = {"experts": {"count": 3, "points": [1, 3, 4], "shared_steps": 6}, "stopping": {"max_steps": 10, "steps_per": "point"}}
    assert firsts(validate(Recipe, {**BASE, **each}, "test")) == {"shared": 0, "2": 6, "1": 46, "0": 76}


def test_one_model_that_says_nothing_is_the_recipe_itself() -> None:
    one, plain = recipe([{"points": [3, 5]}]), validate(Recipe, {**BASE, "experts": {"count": 2, "points": [3, 5]}}, "test")
    assert one.phases() == plain.phases()
    for phase in plain.phases():
        assert plain.of(phase) is plain
        assert one.of(phase).model == plain.model and one.made_of(phase) == {}


@pytest.mark.parametrize(("models", "overrides", "message"), [
    (MODELS, {"experts": {"count": 4}}, r"count is 4"),
    (MODELS, {"experts": {"points": [1, 2, 2, 2, 1]}}, r"points are \[1, 2, 2, 2, 1\], but those of models are \[1, 2, 2, 1, 2\]"),
    ([{"points": 7}], {}, "experts.points sum to 7, but schedule.points is 8"),
    ([{"points": 4}, {"points": 4, "level": 3}], {}, r"experts\.models\.1: level is 3, .* up to level 2 only"),
    ([{"points": 4}, {"points": 4, "level": 2}], {"data": {"store": "s", "shape": [20, 20, 20]}},
     r"experts\.models\.1: what view.kind 'whole' sees at level 2 is \[5, 5, 5\], but this network needs multiples of \[2, 2, 2\]"),
    ([{"points": 8, "level": 1}], {"preconditioner": {"kind": "epsilon"}}, r"preconditioner.kind 'epsilon' knows .* up to level 0 only"),
    ([{"points": 8, "level": 1}], {"preconditioner": {"kind": "edm"}, "assembly": {"kind": "autoregressive", "thickness": 2}},
     "level 1 and view.kind 'whole' are of whole volumes, but assembly.kind 'autoregressive' makes pieces"),
    ([{"points": 8, "batch_size": 3}], {"engine": {"accumulation": 2}}, r"experts\.models\.0: data.batch_size 3 is not a multiple"),
    ([{"points": 4, "batch_size": 8}, {"points": 4, "batch_size": 8}],
     {"preconditioner": {"kind": "edm"}, "optimiser": {"gradient_clip": 0.0}, "stopping": {"max_steps": 5, "min_steps": 5},
      "privacy": {"kind": "dp_sgd", "epsilon": 8.0, "delta": 1e-3}},
     "experts.models have a batch_size of their own: the ledger has one sampling rate"),
    ([{"points": 8, "netwrok": SMALL}], {}, r"unknown key 'experts.models.0.netwrok'"),
    ([{"points": 0}], {}, "greater than or equal to 1|greater than 0"),
    ([{"points": []}], {}, "points"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused_by_the_number_of_its_model(models: Any, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(models, **overrides)


def test_they_survive_their_file_and_can_be_given_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(recipe()))
    assert load(path, own=True) == recipe()
    content = apply_overrides({**BASE, "experts": {}}, [("experts.models", yaml.safe_dump(MODELS, default_flow_style=True))])
    assert validate(Recipe, content, "test") == recipe()


def test_what_is_recorded_of_an_expert_is_what_differs_and_is_compared_by_meaning() -> None:
    made = recipe()
    by_name = {phase.name: phase for phase in made.phases()}
    assert made.made_of(by_name["3"]) == {"level": 2}
    assert {*made.made_of(by_name["0"])} == {"network"}
    older = {"network": dict(MODELS[0]["network"])}  # without options that have come since
    assert older != made.made_of(by_name["0"]) and made.agrees(by_name["0"], older, "here")
    assert not made.agrees(by_name["0"], {}, "here") and not made.agrees(by_name["3"], {"level": 1}, "here")
    assert not made.agrees(by_name["2"], {"level": 1, "network": older["network"]}, "here")
    with pytest.raises(UserError, match=r"here: .*network\.kind is 'nonsense'"):
        made.agrees(by_name["0"], {"network": {"kind": "nonsense"}}, "here")


def test_a_dry_run_tells_the_models_apart() -> None:
    told = size.report(recipe()).splitlines()
    assert [line for line in told if line.startswith("model ")] == [
        "model 0              experts 0 to 1: level 0, view whole, 16 x 16 x 16 at once, at most 5 steps of 4 volumes",
        "model 1              expert 2: level 1, view whole, 8 x 8 x 8 at once, at most 7 steps of 8 volumes",
        "model 2              experts 3 to 4: level 2, view whole, 4 x 4 x 4 at once, at most 5 steps of 4 volumes",
    ]
    assert sum("in each expert" in line for line in told) == 3


def test_the_plan_of_several_models_is_made_of_the_plans_of_each() -> None:
    models = [{"points": [2, 2], "network": MODELS[0]["network"], "stopping": {"max_steps": 9}}, {"points": [2, 2], "level": 1}]
    alone = [
        validate(Recipe, {**BASE, **section, "experts": {"count": 2}}, "test")
        for section in ({"network": MODELS[0]["network"], "stopping": {"max_steps": 9}}, {"level": 1})
    ]
    cluster = Cluster(1, 1, 2**40, 1e9, 1e9, None)

    def planned(of: Recipe) -> tuple[Any, Planner]:
        planner = Planner(of, cluster, 10)
        return next(s for s in planner.settings(1, 1) if s.engine.zero_stage == 0 and not s.engine.activation_checkpointing), planner

    both, planner = planned(recipe(models, experts={"warm_start": "none"}))
    each = [planned(validate(Recipe, {**of.model_dump(), "experts": {"count": 2, "warm_start": "none"}}, "test"))[0] for of in alone]
    assert both.hours == pytest.approx(sum(2 * one.expert_hours for one in each))
    assert both.expert_hours == max(one.expert_hours for one in each) and both.step_seconds == max(one.step_seconds for one in each)
    assert both.memory == max((one.memory for one in each), key=lambda memory: memory.total)
    sizes = [traced.network for traced in planner.traces]
    assert disk_bytes(both.recipe, sizes, 0)["weights (EMA) of all networks"] == sum(2 * 4 * of.released for of in sizes)


def test_an_option_that_comes_later_is_not_stated_where_it_is_at_its_default() -> None:
    """Else it would be in the fingerprint of every run from before."""

    class Newer(config_class("volgen.models.assemblies", "whole")):  # type: ignore[misc]
        margin: int = 0

    before = validate(Recipe, BASE, "test")
    assert not any(before.stated(section) for section in ("assembly", "method", "level", "view", "conditions"))
    assert not before.model_copy(update={"assembly": Newer()}).stated("assembly")
    assert not before.model_copy(update={"assembly": Newer(margin=0)}).stated("assembly"), "typed, and the same"
    assert before.model_copy(update={"assembly": Newer(margin=2)}).stated("assembly")
    assert before.model_copy(update={"level": 1}).stated("level")
