"""Copies, and models that know their people, on volumes made for it."""

from __future__ import annotations

import numpy as np
import pytest

from volgen.evaluation import memorisation
from volgen.evaluation.memorisation import nearest, points, twins

SHAPE = (12, 12, 12)


def heads(count: int, seed: int) -> list[np.ndarray]:
    """A ball each, darker towards the middle as all of them are, with marks of its own."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(12) - 5.5] * 3, indexing="ij"))
    radius = np.linalg.norm(grid, axis=0)
    ball = radius < 4.5
    volumes = []
    for _ in range(count):
        coarse = generator.uniform(-0.15, 0.15, (4, 4, 4)).repeat(3, 0).repeat(3, 1).repeat(3, 2)
        volumes.append(np.where(ball, 0.3 + 0.09 * radius + coarse, 0.0).astype(np.float32))
    return volumes


@pytest.fixture(name="people")
def _people() -> memorisation.People:
    return points(heads(20, 0), range(20), [number < 10 for number in range(20)])


def test_a_copy_with_a_little_noise_is_found(people: memorisation.People) -> None:
    generator = np.random.default_rng(1)
    drawn = [np.clip(volume + generator.normal(0, 0.005, SHAPE), 0, 1).astype(np.float32) for volume in heads(20, 0)[:3]] + heads(5, 2)
    found = nearest(people, drawn, 0)
    assert found["copies"] == 3 and found["drawn"] == 8 and found["members"] == found["others"] == 10
    assert found["copy_below"] == pytest.approx(found["smallest_between_people"] / 5)


def test_new_people_are_no_copies_and_near_to_everybody_alike(people: memorisation.People) -> None:
    found = nearest(people, heads(16, 5), 0)
    assert found["copies"] == 0 and found["p_value"] > 0.05
    assert found["expected"] == 8.0


def test_blur_brings_volumes_nearer_to_everybody_and_accuses_nobody(people: memorisation.People) -> None:
    mean = np.mean(heads(200, 7), axis=0)
    drawn = [(0.8 * mean + 0.2 * volume).astype(np.float32) for volume in heads(16, 8)]
    found = nearest(people, drawn, 0)
    assert found["drawn_to_members"] < found["others_to_members"]
    assert found["copies"] == 0 and found["p_value"] > 0.05


def test_mixtures_of_training_people_are_found_though_none_is_a_copy(people: memorisation.People) -> None:
    generator, known = np.random.default_rng(3), heads(20, 0)[:10]
    threes = [generator.choice(10, 3, replace=False) for _ in range(24)]
    found = nearest(people, [0.4 * known[a] + 0.3 * known[b] + 0.3 * known[c] for a, b, c in threes], 0)
    assert found["copies"] == 0 and found["nearest_is_member"] == 24 and found["p_value"] < 0.001


def test_two_scans_of_one_person_count_once_and_are_not_strangers_to_each_other() -> None:
    one, two = heads(2, 0)
    rest = heads(8, 1)
    volumes = [one, one, two, *rest]
    people = points(volumes, [0, 0, 1, *range(2, 10)], [True, True, True, *[number < 4 for number in range(8)]])
    found = nearest(people, heads(3, 2), 0)
    assert found["members"] == 6 and found["others"] == 4 and found["smallest_between_people"] > 0.05


def test_twins_of_models_that_learnt_the_same_are_alike_and_of_models_that_copy_are_not(people: memorisation.People) -> None:
    known, new = heads(20, 0), heads(6, 9)
    also = [number >= 10 for number in range(20)]
    learnt = twins(people, new, new, also)
    assert learnt["twins"] == pytest.approx(1.0) and learnt["nearer_to_training"] == 0
    copied = twins(people, known[:6], known[10:16], also)
    assert copied["first_to_training"] == pytest.approx(1.0) and copied["nearer_to_training"] == 6


def test_noise_and_models_that_share_no_seeds_are_not_accused_as_twins(people: memorisation.People) -> None:
    generator = np.random.default_rng(9)
    noise = [generator.random(SHAPE).astype(np.float32) for _ in range(64)]
    for one, two in ((heads(32, 31), heads(32, 32)), (noise[:32], noise[32:])):
        found = twins(people, one, two, ~people.inside)
        assert found["nearer_to_training"] < 16 and found["p_value"] > 0.01


def test_a_patient_with_two_ids_does_not_hide_copies() -> None:
    real = heads(20, 0)
    twice = np.clip(real[15] + np.random.default_rng(4).normal(0, 1e-3, SHAPE), 0, 1).astype(np.float32)
    people = points([*real, twice], range(21), [number < 10 for number in range(21)])
    generator = np.random.default_rng(1)
    drawn = [np.clip(volume + generator.normal(0, 0.005, SHAPE), 0, 1).astype(np.float32) for volume in real[:3]] + heads(5, 2)
    found = nearest(people, drawn, 0)
    assert found["copies"] == 3 and found["alike"] == 1
    assert nearest(people, heads(16, 5), 0)["copies"] == 0
