"""``volgen audit``: a run, the people it was trained on and others in; what it gives away of the former out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volgen.commands.audit import losses as audit_losses
from volgen.commands.audit import samples
from volgen.commands.audit.people import HALF, Examined, check_cohort, everybody, open_store, trained_on
from volgen.core.errors import UserError
from volgen.core.files import write_json
from volgen.core.manifest import Provenance
from volgen.core.progress import say
from volgen.core.rounding import lower, upper
from volgen.core.run_files import LEDGER
from volgen.data.store import Store
from volgen.parallel.device import usable_device
from volgen.privacy import cohort_entries, membership
from volgen.privacy.accounting import profile
from volgen.privacy.cohort_ledger import CohortLedger
from volgen.privacy.ledger import costs
from volgen.privacy.membership import Shadows
from volgen.privacy.one_run import bear, lower_bound
from volgen.runs.statement import AUDIT, claim, write_statement
from volgen.runs.trained import TrainedRun, open_run

CONFIDENCE = 0.95
SIGNIFICANT, HINT = 0.01, 0.05
"""p-values below the first, all tests paid for, are findings; those up to the second are said to be no proof of the contrary."""
DELTA = 1e-5
"""Delta of the bound for a run that claims nothing."""
FOREIGN = "; others are of another store, and a difference between the cohorts alone would look the same"


@dataclass(frozen=True)
class AuditOutcome:
    """What an audit found.

    Attributes:
        directory: where ``audit.json`` and the statement are.
        findings: what the run gives away, in words; empty if nothing was found.
        refuted: whether the run gives away more than its ledger claims is possible.
    """

    directory: Path
    findings: list[str]
    refuted: bool


def audit(
    run: Path,
    members: Path | str,
    out: Path,
    *,
    non_members: Path | str | None = None,
    shadow: Sequence[Path] = (),
    twin: Path | None = None,
    canaries: str | None = None,
    count: int = 32,
    levels: int = 4,
    draws: int = 8,
    seed: int = 0,
    batch_size: int = 1,
    device: str | None = None,
) -> AuditOutcome:
    """Attacks a run as somebody would who holds its weights, and says what came of it.

    Args:
        run: directory that ``volgen train`` made.
        members: its store.
        out: a new directory.
        non_members: store of people whom the run never saw; those of ``members`` if None.
        shadow: other runs of the same recipe and store, each on a random half with a ``data.half.seed`` of its own.
        twin: the run on the other half.
        canaries: only people whose ids begin so are guessed about; everybody if None.
        count: volumes to draw for copies and twins; 0 leaves both out.
        levels: noise levels at which losses are compared.
        draws: noises for each scan and level.
        seed: seed of noises and samples.
        batch_size: volumes denoised together.
        device: torch device; a GPU if there is one, if None.

    Raises:
        UserError: the runs and stores do not belong together, or there is too little to look at.
    """
    for option, value, least in (("count", count, 0), ("levels", levels, 1), ("draws", draws, 1), ("batch-size", batch_size, 1)):
        if value < least:
            raise UserError(f"--{option}", str(value), f"at least {least}")
    where, trained, store = usable_device(device), open_run(run), open_store(members, "--members")
    others = store if non_members is None else open_store(non_members, "--non-members")
    people = everybody(trained, store, others)
    shadows, other_half = [open_run(path) for path in shadow], None if twin is None else open_run(twin)
    _check_shadows(trained, shadows, store)
    if other_half:
        samples.check_twin(trained, other_half, store)
    settings = {"count": count, "levels": levels, "draws": draws, "batch_size": batch_size}
    inputs = {"run": trained.fingerprint, "members": store.fingerprint, "non_members": others.fingerprint,
              "shadows": [each.fingerprint for each in shadows], "twin": other_half.fingerprint if other_half else None}  # fmt: skip
    provenance = Provenance("audit", settings, inputs, seed)
    guessed = _chosen(people, canaries)
    with claim(out, trained, provenance, "audit") as folder:
        folder.begin()
        claimed = trained.claim

        sigmas = audit_losses.levels(trained, levels)

        def losses(of: TrainedRun) -> Any:
            return audit_losses.losses(of, guessed, sigmas, draws, seed, where, batch_size)

        table = [[trained_on(each, person, store) for person in guessed] for each in shadows]
        known = Shadows(np.stack([losses(each) for each in shadows]), np.array(table)) if shadows else None
        scores = membership.statistics(losses(trained), [f"loss at sigma {sigma:.3g}" for sigma in sigmas], known)
        content: dict[str, Any] = {
            "run": trained.recipe.name,
            "run_fingerprint": trained.fingerprint,
            "claim": {
                "epsilon": claimed.get("epsilon"),
                "delta": claimed.get("delta"),
                **({"void": claimed["why"]} if "void" in claimed else {}),
            },
            "people": {**_counted(people, guessed), "store_checked": check_cohort(trained, store)},
            "membership": {**_inferred(scores, guessed), "levels": sigmas, "draws": draws, "shadows": len(shadows)},
            "epsilon": _bound(scores, guessed, claimed),
            **_copies(trained, other_half, people, store, count, seed, where),
        }
        if others.fingerprint != store.fingerprint:
            for part in ("membership", "nearest"):
                if content[part].get("leaks"):
                    content[part]["verdict"] += FOREIGN
        content["findings"], content["refuted"] = _findings(content)
        for looked_at in {str(each.path): each for each in (store, others)}.values():
            cohort = CohortLedger(str(looked_at.path), looked_at.fingerprint)
            cohort_entries.enter_audit(cohort, trained.fingerprint, refuted=content["refuted"])
        content["verdict"] = _verdict(content)
        write_json(out / AUDIT, content)
        write_statement(out, trained, audit=content)
        folder.finish(run_name=trained.recipe.name)
    for finding in content["findings"]:
        say(f"found: {finding}")
    say(f"{out}: {content['verdict']}")
    return AuditOutcome(out, content["findings"], content["refuted"])


def _check_shadows(trained: TrainedRun, shadows: Sequence[TrainedRun], store: Store) -> None:
    seeds = [trained.recipe.data.half.seed] if trained.recipe.data.half else []
    for shadow in shadows:
        half = shadow.recipe.data.half
        if half is None or half.seed in seeds:
            found = f"{shadow.recipe.name} was trained on " + (
                "everybody" if half is None else f"a half of seed {half.seed}, as another run"
            )
            raise UserError("--shadow", found, "a random half of its own", "volgen train ... --data.half.seed N, another N for each run")
        if not shadow.geometry.alike(trained.geometry) or shadow.ensemble.grid != trained.ensemble.grid:
            raise UserError("--shadow", f"{shadow.recipe.name} has another shape or box, or other noise levels", "the recipe of the run")
        check_cohort(shadow, store)
        seeds.append(half.seed)


def _chosen(people: list[Examined], canaries: str | None) -> list[Examined]:
    chosen = [person for person in people if canaries is None or person.patient.startswith(canaries)]
    if len({person.inside for person in chosen}) < 2:
        raise UserError("--canaries", f"{len(chosen)} people have ids that begin so, all on one side", "some trained on and some not")
    return chosen


def _counted(people: Sequence[Examined], guessed: Sequence[Examined]) -> dict[str, int]:
    inside = sum(person.inside for person in people)
    return {"members": inside, "others": len(people) - inside, "guessed": len(guessed), "coins": sum(p.coin for p in guessed)}


def _inferred(scores: Mapping[str, Any], people: Sequence[Examined]) -> dict[str, Any]:
    inside = np.array([person.inside for person in people])
    measured = {name: membership.measure(values, inside, CONFIDENCE) for name, values in scores.items()}
    best, p_value = membership.summary(measured)
    leaks = p_value < SIGNIFICANT
    content = {"statistics": measured, "best": best, "p_value": p_value, "significant": SIGNIFICANT, "leaks": leaks}
    return {"confidence": CONFIDENCE, **content, "verdict": _told(measured[best], best, p_value, len(measured))}


def _told(measured: Mapping[str, Any], statistic: str, p_value: float, tests: int) -> str:
    """What a membership test means, and what its p was compared with."""
    auc, (low, high) = measured["auc"], measured["interval"]
    if p_value < SIGNIFICANT:
        verdict = "who was trained on can be told"
    elif p_value < HINT:
        verdict = (
            f"a hint that who was trained on can be told, which is not counted as a finding (p would have to be below {SIGNIFICANT:g})"
        )
    else:
        verdict = "who was trained on could not be told"
    alone = f"{measured['p_value']:.2g}"
    paid = f"p = {alone} of one test" if tests == 1 else f"p = {p_value:.2g}, which is {alone} of the best test times {tests} tests"
    against = "below" if p_value < SIGNIFICANT else "not below"
    return f"{verdict}: area under the curve {auc:.3f} ({low:.3f} to {high:.3f}) by '{statistic}', {paid}, {against} {SIGNIFICANT:g}"


def _bound(scores: Mapping[str, Any], people: Sequence[Examined], claimed: Mapping[str, Any]) -> dict[str, Any]:
    """Only people left to a coin: for the others no theorem holds."""
    coins = np.array([person.coin for person in people])
    if coins.sum() < 2:
        return {"skipped": f"who is in training was not left to coins, and then no bound on epsilon holds; for one, {HALF}"}
    inside = np.array([person.inside for person in people])[coins]
    delta = DELTA if claimed.get("delta") is None else float(claimed["delta"])
    tossed = {name: values[coins] for name, values in scores.items()}
    bound = asdict(lower_bound(tossed, inside, delta, CONFIDENCE))
    if claimed.get("epsilon") is None:
        return {**bound, "claim": None}
    claim = bear(tossed, inside, _pairs(claimed), CONFIDENCE)
    return {**bound, "claim": {**asdict(claim), "refuted": claim.refuted}}


def _pairs(claimed: Mapping[str, Any]) -> list[tuple[float, float]]:
    """All that a ledger claims: its number, and what its steps keep at other deltas."""
    number = (float(claimed["epsilon"]), float(claimed["delta"]))
    try:
        steps = costs(claimed.get("entries", ()))
        return [number, *(profile(steps, "rdp" if claimed.get("accountant") == "rdp" else "prv") if steps else ())]
    except (KeyError, TypeError, ValueError) as error:
        found = f"its entries are no steps of a subsampled Gaussian mechanism ({error!r})"
        raise UserError(LEDGER, found, "the ledger that volgen train wrote", "restore it from a copy") from None


def _copies(
    trained: TrainedRun, twin: TrainedRun | None, people: Sequence[Examined], store: Store, count: int, seed: int, where: torch.device,
) -> dict[str, Any]:  # fmt: skip
    if not count:
        skipped = {"skipped": "no volumes were drawn (--count 0)"}
        return {"nearest": skipped, "twins": skipped}
    points, volumes = samples.placed(people), samples.drawn(trained, count, seed, where)
    found: dict[str, Any] = {
        "nearest": samples.copies(points, volumes, seed),
        "twins": {"skipped": "no run on the other half (--twin)"},
    }
    if twin:
        others = samples.drawn(twin, count, seed, where)
        found["twins"] = samples.compared_with_twin(points, people, volumes, twin, others, store)
    return found


def _findings(content: Mapping[str, Any]) -> tuple[list[str], bool]:
    findings = [content[part]["verdict"] for part in ("membership", "nearest", "twins") if content[part].get("leaks")]
    borne = content["epsilon"].get("claim")
    refuted = borne is not None and borne["refuted"]
    if borne is not None and refuted:
        best, claimed, delta = borne["best"], content["claim"]["epsilon"], content["claim"]["delta"]
        findings.insert(0, (
            f"THE LEDGER IS REFUTED: it claims epsilon {upper(claimed, 3)} at delta {upper(delta, 2)}, and if training had kept that and"
            f" taken the steps that it lists, {best['right']} of {best['made']} guesses being right would have had probability"
            f" {upper(borne['p_value'], 2)} at most; that is below {lower(borne['level'], 2)}, which is {1.0 - CONFIDENCE:.0%} shared by"
            f" {borne['tests']} tests. Something was done that it does not know of. Do not release this run"
        ))  # fmt: skip
    return findings, refuted


def _verdict(content: Mapping[str, Any]) -> str:
    least = content["epsilon"].get("epsilon")
    words = "no bound on epsilon (see audit.json)"
    if least is not None:
        gaussian = content["epsilon"]["gaussian_epsilon"]
        words = f"epsilon is at least {lower(least, 3)}, or {lower(gaussian, 3)} if training leaks as a Gaussian mechanism does"
    if content["findings"]:
        found = len(content["findings"])
        return f"the run gives away who was trained on ({found} finding{'s' if found > 1 else ''}); {words}"
    return f"these attacks found nothing, which is no proof that there is nothing; {words}"
