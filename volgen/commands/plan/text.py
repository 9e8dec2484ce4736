"""The plan as people read it."""

from __future__ import annotations

from collections.abc import Iterator

from volgen.commands.plan.settings import Plan, Setting, gib
from volgen.planning.step import trained_beside
from volgen.recipe import Recipe

COLUMNS = ("weights", "gradients", "optimizer", "activations", "buffers", "total")


def text(recipe: Recipe, plan: Plan) -> str:
    """Parameters, memory of every setting, disk, network and hours; then the answer."""
    cluster = plan.cluster
    (x, y, z), box = recipe.data.shape, recipe.data.box
    where = f" ({' x '.join(map(str, box.size))} of it computed)" if box else ""
    kind = "GPUs" if cluster.process is None else "processes"
    machines = f"{cluster.nodes} x {cluster.gpus_per_node} {kind} of {gib(cluster.gpu_memory):g} GiB"
    lines = [f"{recipe.name}: {recipe.experts.count} experts, volumes of {x} x {y} x {z}{where}, on {machines}"]
    if plan.settings:
        lines += _costs(recipe, plan)
    lines += ["assumed, not measured:", *(f"  {line}" for line in plan.assumptions)] if plan.assumptions else []
    chosen = plan.chosen
    if chosen is None:
        return "\n".join([*lines, f"nothing fits: {plan.reason}."])
    return "\n".join([*lines, f"cheapest setting that fits: {describe(chosen)}"])


def _costs(recipe: Recipe, plan: Plan) -> list[str]:
    first = plan.settings[0]
    groups = first.recipe.experts.groups
    ranks = plan.cluster.ranks // groups
    lines = [
        *_parameters(recipe, plan),
        *_networks(recipe, plan),
        *_shared(plan, first, ranks),
        f"disk for the run     {sum(plan.disk.values()) / 1e9:.2f} GB: "
        + ", ".join(f"{name} {count / 1e9:.2f}" for name, count in plan.disk.items()),
        *_sampling(plan),
        f"computing per step   {first.flops / 1e12:.3g} TFLOP on each rank (the first setting below), at "
        f"{plan.cluster.throughput / 1e12:.3g} TFLOP/s",
        "GiB on each rank at the worst moment, and time at most (stopping may end an expert earlier):",
        "ZeRO  checkpointing  offload                "
        + "".join(f"{name:>12}" for name in COLUMNS)
        + "  network/step    expert       run  fits",
    ]
    return lines + [_row(setting) for setting in plan.settings]


def _parameters(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Sizes of the networks of each model."""
    models = recipe.experts.alike
    for number, (size, count) in enumerate(zip(plan.networks, models, strict=False)):
        of = f" of model {number}" if len(models) > 1 else ""
        yield f"parameters           {size.released:,} in each expert{of}, {size.released * count:,} in all{trained_beside(recipe, size)}"
    for cost, size in zip(plan.settings[0].networks[len(models) :], plan.networks[len(models) :], strict=True):
        yield f"parameters           {size.released:,} in {cost.phase.label}"


def _networks(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """What each kind of network takes, where there are several."""
    first = plan.settings[0]
    for cost in first.networks if len(first.networks) > 1 else ():
        variant = recipe.of(cost.phase)
        name = f"model {cost.phase.model}" if cost.phase.points else cost.phase.label
        piece = " x ".join(map(str, variant.piece))
        yield (
            f"{name:<20} level {variant.level}, {piece} at once: {cost.flops / 1e12:.3g} TFLOP and {cost.step_seconds:.3g} s a step,"
            f" {gib(cost.memory):.2f} GiB (the first setting below)"
        )


def _sampling(plan: Plan) -> Iterator[str]:
    """What drawing a volume takes."""
    if plan.sampling is None:
        return
    usual, full = plan.sampling.usual, plan.sampling.full
    levels = {step.level for step in usual.steps}
    said = f"{usual.flops / 1e12:.3g} TFLOP, {plan.sampling.usual_seconds:.3g} s and {gib(usual.peak):.2f} GiB for a volume"
    if len(levels) > 1:
        climbing = f", which climbs over levels {', '.join(map(str, sorted(levels, reverse=True)))}"
        whole = f"{full.flops / 1e12:.3g} TFLOP, {plan.sampling.full_seconds:.3g} s and {gib(full.peak):.2f} GiB with --full"
        said = f"{said}{climbing} ({whole})"
    yield f"sampling             {said}"


def _shared(plan: Plan, first: Setting, ranks: int) -> Iterator[str]:
    """What goes through the network at once, and what the ledger will say."""
    recipe, told, at_once = first.recipe, plan.forecast, first.at_once
    if at_once is None:
        accumulation = first.engine.accumulation
        sizes = (variant.data.batch_size // (ranks * accumulation) for variant in recipe.variants)
        micro = " or ".join(dict.fromkeys(map(str, sizes)))
        yield f"groups               {recipe.experts.groups} of {ranks} ranks, {accumulation} micro-batches of {micro} volumes"
    else:
        patients = "1 patient" if at_once.patients == 1 else f"{at_once.patients} patients"
        views = recipe.privacy.views if at_once.all_views else 1
        yield (
            f"patients in a step   {recipe.data.batch_size} expected, {recipe.privacy.views} views of each, shared by {ranks} ranks;"
            f" at once: {patients}, {views} views (the first setting below)"
        )
    if told is not None:
        exchanged = "not known" if told.replace_one is None else f"{told.replace_one:.3g}"
        yield (
            f"privacy              epsilon {told.epsilon:.3g} of {told.budget:g} at delta {told.delta:g} per patient after {told.steps}"
            f" steps of all networks ({told.allowed} are allowed): noise multiplier {told.noise_multiplier:g}, sampling rate"
            f" {told.sampling_rate:.3g} ({told.neighbouring}; replace-one: epsilon {exchanged})"
        )


def _row(setting: Setting) -> str:
    engine, memory = setting.engine, setting.memory
    values = "".join(f"{gib(getattr(memory, name)):12.2f}" for name in COLUMNS)
    return (
        f"{engine.zero_stage:>4}  {'on' if engine.activation_checkpointing else 'off':<13}  {engine.offload:<21}{values}"
        f"{setting.network_bytes / 1e9:11.3f} GB{duration(setting.expert_hours):>10}{duration(setting.hours):>10}"
        f"  {'yes' if setting.fits else 'no'}"
    )


def describe(setting: Setting) -> str:
    """A setting in one line, with the keys that choose it."""
    return (
        " ".join(f"--{key} {value}" for key, value in keys(setting))
        + f"  ({gib(setting.memory.total):.1f} GiB on each rank, at most {duration(setting.hours)})"
    )


def duration(hours: float) -> str:
    """Three digits with a unit that people can judge: ``0.36 s``, ``3.5 min``, ``105 h`` (up to a week), ``42 d``."""
    for unit, count, most in (("s", hours * 3600.0, 60.0), ("min", hours * 60.0, 60.0), ("h", hours, 168.0)):
        if float(f"{count:.3g}") < most:
            return f"{count:.3g} {unit}"
    return f"{hours / 24.0:.3g} d" if hours < 24e3 else f"{hours / 24.0:,.0f} d"


def keys(setting: Setting) -> list[tuple[str, str]]:
    """Dotted keys and values that choose a setting."""
    engine = setting.engine
    return [
        ("engine.zero_stage", str(engine.zero_stage)),
        ("engine.activation_checkpointing", str(engine.activation_checkpointing).lower()),
        ("engine.offload", engine.offload),
        ("engine.accumulation", str(engine.accumulation)),
        ("experts.groups", str(setting.recipe.experts.groups)),
    ]
