"""What may be said of a run's privacy, on one page, for somebody who decides whether it may leave the house."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from volgen.core.ledger import checked
from volgen.core.rounding import lower, upper
from volgen.core.run_files import CONFIG
from volgen.privacy.local import LARGEST_DELTA, LARGEST_EPSILON

Content = Mapping[str, Any]
PEOPLE = (
    "validation and test people of the cohort, whom private training does not look at",
    "what a study finds out about everybody: a conclusion about a disease holds for somebody who took no part, too",
    "that the hospital has this cohort, and whatever else is published about the same people",
    "who can read the memory or the disks of the machines that trained the model",
)
ANYBODY = (
    "anybody who holds the released files: with unlimited computing power, the source code, the recipe and its seed, and the scans of all"
    " other patients"
)
NOBODY = "nobody: whoever holds the weights or the volumes may find out who was in training, and what their scans look like"
HALVED = (
    f"who is in the half that this run was trained on: the coins' seed in {CONFIG} tells it of everybody whose id in the cohort is known."
    " Such a run is made to be audited, not to be released"
)
ATTACKED = (
    "the audit's own numbers, here and in audit.json: they were computed from the people themselves, validation and test people among them,"
    " and nothing was added to hide anybody. Leave the audit out of what is published"
)
NEIGHBOURS = {
    "add-or-remove-one": ("added to or removed from the cohort", "one world has a patient more"),
    "zero-out": (
        "counted, or present and counted for nothing",
        "in one world a patient is there, and their scans count for nothing; how many patients there are is public",
    ),
    "replace-one": (
        "exchanged for anybody else's",
        "in one world another patient is in the place of one. Larger, because two patients differ by more than one and nobody; put together"
        " with an anonymised scan, whose two worlds are of this kind, this is the number to count",
    ),
}
"""Two worlds that are compared: in words, and what they are."""
CORRELATED = "scans of relatives are not protected together: the unit is one patient"


def statement(
    run: str, fingerprint: str, ledger: Content, audit: Content | None = None, certificates: Sequence[Content] = (), *,
    halved: bool = False, cohort: Content | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Content of ``statement.json``.

    Args:
        run: name of the run.
        fingerprint: fingerprint of the run.
        ledger: its ``privacy_ledger.json``.
        audit: an ``audit.json`` of it, if there is one.
        certificates: ``certificate.json`` of scans that it denoised.
        halved: whether it was trained on the half that coins chose, for an audit.
        cohort: what the ledger of the cohort says of all its runs, if anybody looked.

    Returns:
        ``headline``, ``guarantee`` (whether there is one that means something), and for the page ``protected``, ``from_whom``,
        ``numbers``, ``assumptions``, ``not_protected`` (lists of sentences, or of name and text), ``audit`` and ``certificates``.
    """
    ledger = checked(ledger)
    content = _with_guarantee(ledger) if ledger.get("epsilon") is not None else _without(ledger)
    if cohort and content["guarantee"]:
        content["numbers"] += _of_cohort(cohort)
        content["not_protected"] += _beside_runs(cohort)
    if halved:
        content["not_protected"].insert(0, HALVED)
    if audit:
        content["not_protected"].append(ATTACKED)
    refuted = bool(audit and audit.get("refuted"))
    if refuted:
        content["guarantee"] = False
        content["headline"] = "The guarantee that the ledger claims is refuted by the audit. This run must not be released."
    return {
        "run": run, "run_fingerprint": fingerprint, **content, "audit": _audited(audit),
        "certificates": [_certified(certificate) for certificate in certificates],
    }  # fmt: skip


def _of_cohort(cohort: Content) -> list[dict[str, str]]:
    """What somebody is protected by who is in the cohort that this and other private runs were trained on."""
    name = "epsilon, all private runs of the cohort"
    if "unknown" in cohort:
        return [_row(name, "not known", str(cohort["unknown"]))]
    runs, unfinished, unreadable = (int(cohort[key]) for key in ("runs", "unfinished", "unreadable"))
    words = (
        "this is the only one that its store has seen" if runs == 1 else f"{runs} that this very store has seen, composed at the same delta"
    )
    if unfinished:
        words += f"; {unfinished} of them not finished, or deleted before, with the most steps that they can have taken"
    if unreadable:
        words += f"; {unreadable} lines of the ledger cannot be read and are not counted"
    return [_row(name, upper(cohort["epsilon"], 4), f"{words}. Somebody who holds all of them knows that much, not more")]


def _beside_runs(cohort: Content) -> list[str]:
    """What the sum over a cohort's runs leaves out."""
    said = [
        "private runs on copies of the store, on other machines, or on other stores with some of the same people: the sum over runs is of"
        " one store; nor does it hold scans of its people that volgen anonymise released"
    ]
    if cohort.get("others"):
        said.append(
            f"what {cohort['others']} private runs tell of people who were already, or still, in the store when it held other scans: the"
            " sum over runs is of the store as it was for this run"
        )
    if cohort.get("audits"):
        said.append(f"what {cohort['audits']} audits of runs on the store wrote down: an audit's own numbers are covered by no budget")
    if cohort.get("unprotected"):
        said.append(f"what {cohort['unprotected']} runs without privacy give away, which were trained on the same store and released")
    return said


def odds(epsilon: float) -> str:
    """What even odds may become, in words."""
    return f"{upper(100.0 / (1.0 + math.exp(-epsilon)), 4)} %"


def _with_guarantee(ledger: Content) -> dict[str, Any]:
    epsilon, delta, assumed = float(ledger["epsilon"]), float(ledger["delta"]), ledger.get("assumed", {})
    vacuous = not (epsilon <= LARGEST_EPSILON and delta <= LARGEST_DELTA)
    public = assumed.get("public")
    finished = ledger.get("state", "finished") == "finished"
    headline = f"Each training patient is protected by ({upper(epsilon, 3)}, {upper(delta, 2)})-differential privacy."
    if vacuous:
        what = f"delta {upper(delta, 2)}" if epsilon <= LARGEST_EPSILON else f"epsilon {upper(epsilon, 3)}"
        headline = f"There is a guarantee on paper, but {what} is too large to protect anybody."
    if not finished:
        headline += " Training has not finished; the number is the whole budget."
    entries = ledger.get("entries", ())
    steps = sum(int(entry["steps"]) for entry in entries)
    numbers = [
        _row("epsilon", upper(epsilon, 4), "no odds about a patient change by more than a factor of e^epsilon"),
        _row("delta", upper(delta, 2), "the chance that this fails; it has to be far below one over the number of patients"),
        *_expected(delta, assumed.get("patients")),
        *(_row(f"epsilon, {name}", "not known" if bound is None else upper(bound, 4), NEIGHBOURS[name][1])
          for name, bound in _relations(ledger)),
        _row("even odds become at most", odds(epsilon), "that somebody took part, for whoever held it to be as likely as not"),
        _row("counted with", str(ledger.get("accountant")), f"over {steps} noisy steps of {len(entries)} networks, with all restarts,"
             " and any number of volumes drawn"),
    ]  # fmt: skip
    numbers += [
        _row("noise multiplier", f"{noise:.4g}", f"in {steps} steps of {networks} networks: sampling rate {rate:.3g}, clip norm {clip:g}")
        for (noise, rate, clip), (steps, networks) in _by_mechanism(entries).items()
    ]
    covered = ", ".join(assumed.get("covered", ()))
    return {
        "guarantee": finished and not vacuous,
        "headline": headline,
        "protected": [
            "that a patient was in the training split, and everything that their scans show: all scans of one patient together, "
            + NEIGHBOURS.get(str(ledger.get("neighbouring")), NEIGHBOURS["add-or-remove-one"])[0],
            "over all networks of the run, all training steps, all restarts, and every volume that is ever drawn",
            *([f"in these files: {covered}"] if covered else []),
        ],
        "from_whom": [ANYBODY],
        "numbers": numbers,
        "assumptions": [
            "the software that ran is the software that was reviewed: the ledger counts what it did",
            *(f"{key.replace('_', ' ')}: {text}" for key, text in assumed.items() if isinstance(text, str | int | float)),
            *(_taken_over(public) if public else ()),
        ],
        "not_protected": [
            *PEOPLE, CORRELATED, *map(str, assumed.get("not_covered", ())),
            *([f"people of the public run '{public['run']}', whose fit and weights this run is made from"] if public else ()),
        ],
    }  # fmt: skip


def _expected(delta: float, patients: object) -> list[dict[str, str]]:
    """Over how many patients the promise may fail, on average. Above 0.1 training refuses."""
    if isinstance(patients, bool) or not isinstance(patients, int):
        return []
    text = f"with the public number of {patients} patients: as many may be given away whole, on average; training refuses more than 0.1"
    return [_row("delta times patients", upper(delta * patients, 2), text)]


def _relations(ledger: Content) -> list[tuple[str, float | None]]:
    """The other relations that hold, with their epsilons."""
    found = [(str(each["neighbouring"]), each["epsilon"]) for each in ledger.get("guarantees", ())]
    return [(name, bound) for name, bound in found if name in NEIGHBOURS and name != ledger.get("neighbouring")]


def _taken_over(public: Content) -> list[str]:
    """What a run that began from a public one assumes."""
    kept = ", ".join(public["unchanged_experts"])
    return [
        f"the run began from '{public['run']}' (fingerprint {public['fingerprint']}), which cost nothing because nobody protected here is"
        f" in its cohort, or in those of runs that it began from. Of that run: {public['its_privacy']}",
        f"people of both: {public['people']}",
        *([f"experts of the public run that were not trained: {kept}"] if kept else ()),
    ]


def _by_mechanism(entries: Sequence[Content]) -> dict[tuple[float, float, float], tuple[int, int]]:
    """(noise multiplier, sampling rate, clip norm) -> (steps, networks)."""
    found: dict[tuple[float, float, float], tuple[int, int]] = {}
    for entry in entries:
        key = (float(entry["noise_multiplier"]), float(entry["sampling_rate"]), float(entry["clip_norm"]))
        steps, networks = found.get(key, (0, 0))
        found[key] = (steps + int(entry["steps"]), networks + 1)
    return found


def _without(ledger: Content) -> dict[str, Any]:
    why = str(ledger.get("why") or "the run was trained without a privacy mechanism").rstrip(".")
    return {
        "guarantee": False,
        "headline": "There is no privacy guarantee" + (": the one that its ledger claims is void." if "void" in ledger else "."),
        "protected": [f"nothing: {why}"],
        "from_whom": [NOBODY],
        "numbers": [_row("epsilon", "none", "no number bounds what the model gives away, however harmless its volumes look")],
        "assumptions": ["none is needed for no guarantee; an audit that finds nothing does not make one"],
        "not_protected": ["every patient of the training split", "every patient of the validation split, whose losses chose the weights"],
    }


def _audited(audit: Content | None) -> dict[str, Any] | None:
    if audit is None:
        return None
    bound = audit["epsilon"]
    rows = [
        _row("people", f"{audit['people']['members']} trained on, {audit['people']['others']} others", _whose(audit["people"])),
        _row("telling who was trained on", f"{audit['membership']['statistics'][audit['membership']['best']]['auc']:.3f}",
             audit["membership"]["verdict"]),
    ]  # fmt: skip
    if "skipped" in bound:
        rows.append(_row("epsilon at least", "unknown", bound["skipped"]))
    else:
        best = bound["best"]
        words = (
            f"at delta {bound['delta']:.2g}, confidence {bound['confidence']:.0%}: {best['right']} of {best['made']} guesses about"
            f" {bound['people']} patients were right ({best['statistic']}; {bound['tests']} tests paid for)"
        )
        rows.append(_row("epsilon at least", lower(bound["epsilon"], 3), words))
        rows += _of_curves(bound)
    for part, name in (("nearest", "copies"), ("twins", "two models of halves that share nobody")):
        found = audit[part]
        rows.append(_row(name, "not looked at" if "skipped" in found else "found" if found["leaks"] else "none found",
                         found.get("skipped") or found["verdict"]))  # fmt: skip
    curves = {name: measured["roc"] for name, measured in audit["membership"]["statistics"].items()}
    return {"verdict": audit["verdict"], "findings": list(audit["findings"]), "refuted": bool(audit["refuted"]), "rows": rows,
            "roc": curves[audit["membership"]["best"]], "roc_name": audit["membership"]["best"]}  # fmt: skip


def _of_curves(bound: Content) -> list[dict[str, str]]:
    """The bound for Gaussian leakage, and how the ledger's own steps bear the guesses; audits of 0.1.0 have neither."""
    rows = []
    if "mu" in bound:
        best = bound["gaussian_best"]
        words = (
            f"mu at least {lower(bound['mu'], 3)}; holds only if training leaks as a Gaussian mechanism does, as many noisy steps nearly"
            f" do: {best['right']} of {best['made']} guesses ({best['statistic']}), same delta, confidence and tests"
        )
        rows.append(_row("epsilon at least, if Gaussian", lower(bound["gaussian_epsilon"], 3), words))
    if claim := bound.get("claim"):
        best = claim["best"]
        words = (
            f"probability of {best['right']} or more right guesses of {best['made']} ({best['statistic']}), if the ledger's number and the"
            f" steps that it lists were true, at most {upper(claim['p_value'], 2)}; refuted would be {lower(claim['level'], 2)} or less"
            f" ({claim['tests']} tests paid for)"
        )
        rows.append(_row("the ledger's claim", "refuted" if claim["refuted"] else "not refuted", words))
    return rows


def _whose(people: Content) -> str:
    unsure = "; the run has no manifest, so that it was trained on these people was not checked"
    return "patients, with all of their scans" + ("" if people.get("store_checked", True) else unsure)


def _certified(certificate: Content) -> dict[str, Any]:
    rows = [
        _row("epsilon", upper(certificate["epsilon"], 4), f"at delta {upper(certificate['delta'], 2)}; {certificate['neighbouring']}"),
        _row("noise", f"{certificate['sigma']:.4g}", f"in each of {certificate['d']} voxels; sensitivity {certificate['sensitivity']:.4g},"
             f" mu {certificate['mu']:.4g}"),
        _row("assumed", "", certificate["denoiser"]["assumed"]),
        _row("covers", "", certificate["covers"]),
        _row("does not cover", "", certificate["not_covered"]),
        _row("several releases", "", certificate["composition"]),
    ]  # fmt: skip
    return {"unit": certificate["unit"], "meaning": certificate["meaning"], "vacuous": bool(certificate["vacuous"]), "rows": rows}


def _row(name: str, value: str, text: str) -> dict[str, str]:
    return {"name": name, "value": value, "text": text}
