"""What is looked for: numbers of a guidance and its solver, and which of them to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from volgen.commands.tune.trials import Trial
from volgen.core.config import validate
from volgen.core.errors import UserError, nearest_word
from volgen.core.search import Search

STARTUP = 8
"""Trials that are drawn evenly before anything is learned from them."""
DIGITS = 4
"""Significant digits of what is tried: what is written is what was tried."""
SECTIONS = ("guidance", "sampler")


@dataclass(frozen=True)
class Space:
    """Numbers and where they are looked for.

    Attributes:
        searches: by dotted key, such as ``guidance.gamma``.
        whole: keys of whole numbers.
        first: values of the first trial, those that the settings have.
    """

    searches: Mapping[str, Search]
    whole: frozenset[str]
    first: Mapping[str, float]

    @property
    def told(self) -> dict[str, list[Any]]:
        """The same for a manifest."""
        return {name: [one.low, one.high, "log" if one.log else "even"] for name, one in self.searches.items()}

    def ask(self, found: Sequence[Trial], seed: int, number: int) -> dict[str, float]:
        """Values of trial ``number``, a function of the seed and of the trials before it."""
        if number == 0:
            return dict(self.first)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        ranges = {name: self._distribution(name) for name in self.searches}
        sampler = TPESampler(seed=(seed * 1_000_003 + number) % 2**32, n_startup_trials=STARTUP)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in found:
            inside = {name: min(max(value, self.searches[name].low), self.searches[name].high) for name, value in one.values.items()}
            params = {name: int(value) if name in self.whole else value for name, value in inside.items()}
            state = TrialState.FAIL if one.score is None else TrialState.COMPLETE
            study.add_trial(create_trial(state=state, value=one.score, params=params, distributions=ranges))
        return {name: self._rounded(name, float(value)) for name, value in study.ask(ranges).params.items()}

    def put(self, guidance: Any, sampler: Any, values: Mapping[str, float]) -> tuple[Any, Any]:
        """Both configurations with values in them."""
        changed = []
        for section, config in zip(SECTIONS, (guidance, sampler), strict=True):
            mine = {name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{section}.")}
            content = {key: int(value) if f"{section}.{key}" in self.whole else value for key, value in mine.items()}
            changed.append(validate(type(config), {**config.model_dump(mode="json"), **content}, section))
        return changed[0], changed[1]

    def _distribution(self, name: str) -> BaseDistribution:
        one = self.searches[name]
        if name in self.whole:
            return IntDistribution(int(one.low), int(one.high), log=one.log)
        return FloatDistribution(one.low, one.high, log=one.log)

    def _rounded(self, name: str, value: float) -> float:
        one = self.searches[name]
        return value if name in self.whole else min(max(float(f"{value:.{DIGITS}g}"), one.low), one.high)


def space_of(guidance: Any, sampler: Any, asked: Sequence[str]) -> Space:
    """What is looked for: what was asked for, or what guidance and solver say of themselves.

    Raises:
        UserError: a word is of another form, a key is no number of these, or there is nothing to look for.
    """
    configs = dict(zip(SECTIONS, (guidance, sampler), strict=True))
    searches = {f"{section}.{key}": one for section, config in configs.items() for key, one in type(config).searched.items()}
    if guidance.build().renoises:  # its solver adds fresh noise, and nothing else
        searches = {name: one for name, one in searches.items() if name.startswith("guidance.")}
    if asked:
        searches = dict(_search(word) for word in asked)
    if not searches:
        found = f"neither {guidance.kind} nor {sampler.kind} has a number that wants tuning"
        raise UserError("--search", found, "KEY=LOW:HIGH", "name one, such as --search guidance.iterations=5:60")
    whole, first = set[str](), dict[str, float]()
    for name in searches:
        section, _, key = name.partition(".")
        value = getattr(configs[section], key, None) if section in configs else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            known = [f"{one}.{key}" for one, config in configs.items() for key, value in config if type(value) in (int, float)]
            raise UserError("--search", f"'{name}' is no number of these settings", f"one of {', '.join(known)}", nearest_word(name, known))
        first[name] = value
        if isinstance(value, int):
            whole.add(name)
    return Space(searches, frozenset(whole), first)


def _search(word: str) -> tuple[str, Search]:
    name, equals, text = word.partition("=")
    parts = text.split(":")
    try:
        if not equals or len(parts) not in (2, 3) or parts[2:] not in ([], ["log"]):
            raise ValueError(f"'{word}'")
        return name, Search(float(parts[0]), float(parts[1]), len(parts) == 3)
    except ValueError as error:
        raise UserError("--search", str(error), "KEY=LOW:HIGH or KEY=LOW:HIGH:log, such as guidance.gamma=0.1:100:log") from None
