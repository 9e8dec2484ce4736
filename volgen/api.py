"""The Python interface: what ``import volgen`` gives. Each function is a command, with the same names, defaults, files and bits.

Paths may be strings or :class:`pathlib.Path`. Bad input raises :class:`UserError`, a ``ValueError`` whose message says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, overload

from volgen.commands import module
from volgen.core.address import folder_or_address
from volgen.core.config import validate
from volgen.core.errors import UserError
from volgen.core.exit_codes import INTERRUPTED
from volgen.core.progress import muted
from volgen.core.tree import each

if TYPE_CHECKING:
    from volgen.commands.evaluate.evaluate import Evaluated
    from volgen.commands.ingest.ingest import IngestSummary
    from volgen.commands.report.compare import Comparison
    from volgen.commands.report.report import Judged
    from volgen.data.covariates import Covariates
    from volgen.images.nifti import Image
    from volgen.runs.model import Model

__all__ = [
    "Model", "UserError", "evaluate", "explain", "export", "ingest", "load", "participants", "reconstruct", "report", "sample", "train",
    "translate", "tune", "verdicts",
]  # fmt: skip

StrPath = str | os.PathLike[str]
Component = str | Mapping[str, Any]
"""A kind, such as ``"heun"``, or a section of a configuration, such as ``{"kind": "ddim", "eta": 0.5}``."""
Dtype = Literal["float32", "int16"]
Split = Literal["all", "train", "validation", "test"]


def ingest(
    source: StrPath,
    store: StrPath,
    *,
    shape: int | Sequence[int] | Literal["native"] = 256,
    voxel_size: float | Literal["native"] = 1.0,
    centre: Literal["foreground", "grid"] = "foreground",
    resampling: Literal["sharp", "linear"] | None = None,
    bias: Component = "none",
    registration: Component = "none",
    window: Component = "robust",
    dtype: Literal["uint8", "uint16"] = "uint16",
    layout: Literal["slices", "volumes"] = "slices",
    suffix: str | None = None,
    glob: str | None = None,
    space: str | None = None,
    every: bool = False,
    validation: float = 0.1,
    test: float = 0.1,
    workers: int | None = None,
    patients: StrPath | None = None,
    participants: StrPath | None = None,
    columns: Sequence[str] = (),
    strict: bool = False,
) -> IngestSummary:
    """Turns scans into a store that training streams from: ``volgen ingest``.

    A stopped ingest goes on when it is called again; what is in the store already is kept.

    Args:
        source: a NIfTI or MGH image, a folder of them, or a BIDS tree.
        store: folder of the Zarr store, or ``s3://bucket/store``, new or from an earlier call with the same source and settings.
        shape: voxels along the RAS+ axes, one number for a cube; ``"native"`` keeps each scan's own.
        voxel_size: edge of the isotropic voxels in mm; ``"native"`` keeps each scan's own.
        centre: what the middle of the new grid is: the foreground's centre of mass, or the middle of the old grid.
        resampling: how a new voxel is made of old ones; ``"sharp"`` if None, or what the store was begun with.
        bias: what is done about the shading of scans, such as ``"n4"``.
        registration: how scans are brought into the frame of a template, such as ``{"kind": "affine", "template": "mni.nii.gz"}``.
        window: what of a scan's brightness becomes 0 and 1, such as ``"white_matter"``.
        dtype: type of the stored codes.
        layout: what reading is to be quick for: slices in every orientation, or whole volumes alone.
        suffix: last word of the names of images to take, such as ``"T1w"``; several with commas between them: ``"T1w,T2w"``.
        glob: pattern of the names of images to take, such as ``"*_T1.nii.gz"``.
        space: label of the space of images to take, or ``"native"``.
        every: whether every image of a visit is taken instead of one.
        validation: share of people in the validation split, in [0, 1).
        test: share of people in the test split, in [0, 1).
        workers: processes; one for each core if None.
        patients: table that says whose each scan is; their names say it if None.
        participants: table of what is known of people, such as age and sex; ``participants.tsv`` of the source, if it has one, if None.
        columns: columns of that table that the store holds; age, sex, group and site, where there are such, if empty.
        strict: whether the first scan that cannot be used is an error instead of being left out.

    Returns:
        What is in the store, what was left out and why, the splits, and warnings.

    Raises:
        UserError: nothing can be used, or the store was made of other scans or with other settings.

    Example:
        >>> summary = volgen.ingest("scans", "cohort.zarr", shape=64, voxel_size=4.0)  # doctest: +SKIP
        >>> summary.splits  # doctest: +SKIP
        {'train': 49, 'validation': 6, 'test': 6}
    """
    found: IngestSummary = _answer(
        "ingest", source=source, store=store, shape=shape, voxel_size=voxel_size, centre=centre,
        resampling=resampling, bias=bias, registration=registration, window=window, dtype=dtype, layout=layout,
        suffix=suffix, glob=glob,
        space=space, every=every, validation=validation, test=test, patients=patients,
        participants=participants, columns=tuple(columns), strict=strict,
        **({} if workers is None else {"workers": workers}),
    )  # fmt: skip
    return found


def participants(store: StrPath, table: StrPath, *, columns: Sequence[str] = ()) -> Covariates:
    """Tells a finished store what is known of its people, such as age and sex: ``volgen participants``.

    A table that was there before is replaced; scans, fingerprint and runs stay as they are.

    Args:
        store: a store that :func:`ingest` made.
        table: BIDS ``participants.tsv``, or a table like it; a ``.json`` beside it says units and levels.
        columns: columns that the store holds; age, sex, group and site, where there are such, if empty.

    Returns:
        What the store knows now: ``columns``, what each says, and ``rows``, what is known of each scan.

    Raises:
        UserError: there is no such store, somebody is writing to it, or the table cannot be used.

    Example:
        >>> volgen.participants("cohort.zarr", "participants.tsv").columns["age"].units  # doctest: +SKIP
        'years'
    """
    found: Covariates = _answer("participants", store=store, table=table, columns=tuple(columns))
    return found


def export(
    store: StrPath,
    out: StrPath,
    ids: Sequence[str] | None = None,
    *,
    orientation: Literal["source", "RAS"] = "source",
    dtype: Dtype = "float32",
) -> list[Path]:
    """Writes scans of a store as NIfTI, a BIDS derivative: ``volgen export``.

    Args:
        store: a store that :func:`ingest` made.
        out: new folder.
        ids: scans to write; all of them if None.
        orientation: axis order: as in the ingested file, or RAS+.
        dtype: voxels in the files; int16 has a slope.

    Returns:
        The image files, in the order of ``ids``.

    Raises:
        UserError: there is no such store or scan, or the folder holds something else.

    Example:
        >>> volgen.export("cohort.zarr", "scans", ids=["sub-01"])  # doctest: +SKIP
    """
    files: list[Path] = _answer(
        "export", store=store, out=out, ids=None if ids is None else tuple(ids), orientation=orientation, dtype=dtype
    )
    return files


def train(config: StrPath | Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, only: str | None = None) -> Path:
    """Trains a run, or continues it where it was stopped: ``volgen train``.

    Args:
        config: a YAML file, such as one of ``configs/``, or the same as a mapping. :func:`explain` says what each key means.
        overrides: keys that shall be otherwise, dotted (``{"experts.count": 4}``) or nested (``{"experts": {"count": 4}}``).
        only: a half-open range of experts such as ``"8:16"``, or ``"shared"``; other processes train the others. All if None.

    Returns:
        The run's directory, which :func:`load` and :func:`sample` take.

    Raises:
        UserError: the configuration is wrong, the store does not fit it, or the directory holds another run.
        KeyboardInterrupt: Ctrl-C; all is saved, and the same call goes on.
        SystemExit: a scheduler's signal; all is saved, and the same call goes on.

    Example:
        >>> run = volgen.train("configs/quickstart.yaml", {"name": "first", "data.store": "cohort.zarr"})  # doctest: +SKIP
    """
    from volgen import recipe
    from volgen.commands.train.train import train

    source = _plain(config) if isinstance(config, Mapping) else Path(config)
    resolved = recipe.load(source, list(_dotted(overrides or {})))
    try:
        return train(resolved, only=only)
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:
            raise KeyboardInterrupt("all is saved; the same call goes on") from None
        raise


def load(run: StrPath, *, device: str | None = None, capacity: int = 2) -> Model:
    """Opens a finished run as one denoiser, for a loop of your own: ``model(y, sigma)`` is the expected clean volume.

    Args:
        run: directory that :func:`train` made, or ``volgen release``.
        device: torch device; a GPU if there is one, if None.
        capacity: experts in memory at once, at least 1; each is read when its noise level is first asked for.

    Returns:
        The denoiser (:class:`~volgen.core.protocols.Denoiser`), with the run's noise levels, frame and intensity units. It is also a
        context manager, which ends its reading thread.

    Raises:
        UserError: the run is not finished or damaged, or there is no such device.

    Example:
        Euler's method, which gives the volume of ``volgen.sample(run, count=1, sampler="euler")``:

        >>> with volgen.load("runs/first") as model:  # doctest: +SKIP
        ...     y = model.prior(model.noise(seed=0, index=0))
        ...     for sigma, lower in itertools.pairwise([*model.grid, 0.0]):
        ...         y = y + (lower - sigma) / sigma * (y - model(y, sigma))
        ...     model.image(y).to_filename("volume.nii.gz")
    """
    from volgen.runs.model import Model

    return Model(Path(run), device=device, capacity=capacity)


def sample(
    run: StrPath,
    out: StrPath | None = None,
    *,
    count: int | None = None,
    seed: int = 0,
    between: tuple[int, int] | None = None,
    sketch: StrPath | None = None,
    sketch_sigma: float | None = None,
    steps: int | None = None,
    sampler: Component | None = None,
    noise: Component | None = None,
    given: Mapping[str, Any] | StrPath | None = None,
    encoder: StrPath | None = None,
    guidance: Component | None = None,
    operator: Component | None = None,
    data: StrPath | None = None,
    batch_size: int = 1,
    device: str | None = None,
    dtype: Dtype = "float32",
    start_index: int = 0,
    memory_gib: float = 4.0,
    full: bool = False,
    voxel_size: float | None = None,
    stages: int | None = None,
) -> list[Image]:
    """Draws volumes from a run: ``volgen sample``, bit for bit.

    Args:
        run: directory that :func:`train` made.
        out: folder for the files, new or to be continued; if None, they are made in a temporary one and read into memory.
        count: number of volumes; 1 if None, or as many as the table of ``given`` has rows.
        seed: volume i depends on this seed and i alone.
        between: two seeds: ``count`` volumes lead from volume 0 of the first to volume 0 of the second.
        sketch: a NIfTI volume in the run's frame and units, painted, edited or of coarser voxels, that volumes are drawn from.
        sketch_sigma: the noise that it is given: details that it drowns are drawn anew.
        steps: how many of the run's noise levels to visit; all if None.
        sampler: solver; the run's if None.
        noise: what noise is drawn from; ``"white"`` if None.
        given: what every volume is asked to be: conditions that the run was trained with, such as ``{"age": 70}``; or a
            table, whose rows say it of one volume each.
        encoder: where the sentence encoder lies now that the run was told prompts by; where it lay, or beside the run, if None.
        guidance: what the denoiser is turned into, such as ``"projection"``, which makes volumes agree with ``data``. If None, the run's;
            where there is ``data``, ``"none"``.
        operator: what of ``data`` was measured, such as ``{"kind": "inpaint", "mask": "mask.nii.gz"}``.
        data: a NIfTI volume in the run's frame and intensity units.
        batch_size: volumes that ranks hand on together; no volume depends on it.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels of the images; int16 has a slope.
        start_index: index of the first volume.
        memory_gib: GiB of a rank for volumes under way, and as much for experts.
        full: whether whole volumes are on their way at all noise levels, where a bank has coarser levels for high noise.
        voxel_size: edge of the images' voxels in mm: the run's, if None, or that times a power of 2: means over its voxels.
        stages: ranks that each volume passes through, if there are several; chosen if None.

    Returns:
        The volumes, in RAS+ and the cohort's intensity units, in the order of their indices. With ``out`` they are read from the files
        when they are looked at; without, they are in memory.

    Raises:
        UserError: the run is not finished or damaged, an option is out of range, or ``out`` holds something else.

    Example:
        >>> image, = volgen.sample("runs/first", count=1)  # doctest: +SKIP
        >>> image.shape, image.header.get_zooms()  # doctest: +SKIP
        ((64, 64, 64), (4.0, 4.0, 4.0))
    """
    from volgen.data.derivative import names_in
    from volgen.data.table import UserTable
    from volgen.images import nifti
    from volgen.parallel.launch import discover

    words: tuple[str, ...]
    if isinstance(given, str | os.PathLike):
        words, table = (str(given),), UserTable.read(Path(given), "a table with a row for each volume")
        count = max(len(table.rows) - start_index, 1) if count is None else count
    else:
        words, count = _words(given), 1 if count is None else count
    options = {
        "run": run, "count": count, "seed": seed, "between": between, "sketch": sketch, "sketch_sigma": sketch_sigma,
        "steps": steps, "sampler": sampler, "noise": noise, "guidance": guidance,
        "given": words, "encoder": encoder,
        "operator": operator, "data": data, "batch_size": batch_size,
        "device": device, "dtype": dtype, "start_index": start_index, "memory_gib": memory_gib, "full": full,
        "voxel_size": voxel_size, "stages": stages,
    }  # fmt: skip
    indices = range(start_index, start_index + count)
    if out is not None:
        folder: Path = _answer("sample", out=out, **options)
        return [nifti.image(folder / names_in(folder).found(folder, index)) for index in indices]
    if discover().world_size > 1:
        raise UserError("out", "is None, and several ranks draw these volumes together", "a folder that all of them see")
    with TemporaryDirectory(prefix="volgen-sample-") as temporary, muted():
        folder = _answer("sample", out=temporary, **options)
        return [nifti.image(folder / names_in(folder).found(folder, index), in_memory=True) for index in indices]


def translate(
    scan: StrPath,
    run: StrPath,
    out: StrPath,
    *,
    origin: Mapping[str, Any] | None = None,
    aim: Mapping[str, Any] | None = None,
    other: StrPath | None = None,
    encoder: StrPath | None = None,
    strength: Sequence[float] = (1.0,),
    steps: int | None = None,
    sampler: Component | None = None,
    device: str | None = None,
    dtype: Dtype = "float32",
) -> Path:
    """Changes the scan of a head into what it would be in another group, as far as a run's cohort showed that: ``volgen translate``.

    Args:
        scan: a NIfTI or MGH image.
        run: directory that :func:`train` made, of a run with conditions, or ``"pretrained:NAME"``.
        out: new folder for images, maps of their change and the page.
        origin: what is true of the scan, such as ``{"age": 30, "sex": "F"}`` (``--from``).
        aim: what shall be true of it, such as ``{"age": 70}`` (``--to``); the rest stays as ``origin`` says.
        other: the run that knows of ``aim``, if it is another one of the same frame (``--to-run``).
        encoder: where the sentence encoder lies now that a run was told prompts by; where it lay, or beside the run, if None.
        strength: how far, each gives an image: 0 is the scan as it comes back, 1 what ``aim`` says.
        steps: how many of the run's noise levels to visit on each way; all if None.
        sampler: solver, one that draws no noise; Heun's if None.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels of the images; int16 has a slope.

    Returns:
        ``out``: ``translation.json`` in it has what changes and what comes back, ``translation.html`` shows it.

    Raises:
        UserError: the scan or a run cannot be used, there is no such condition, nothing would change, or ``out`` is not new.

    Example:
        >>> volgen.translate("scan.nii.gz", "runs/told", "older", origin={"age": 30}, aim={"age": 70})  # doctest: +SKIP
    """
    folder: Path = _answer(
        "translate", scan=scan, run=run, out=out, origin=_words(origin), aim=_words(aim), other=other, encoder=encoder,
        strength=tuple(strength), steps=steps, sampler=sampler, device=device, dtype=dtype,
    )  # fmt: skip
    return folder


def reconstruct(
    run: StrPath,
    out: StrPath,
    *,
    data: StrPath | None = None,
    simulate: StrPath | None = None,
    split: Split = "test",
    people: int | None = None,
    count: int = 16,
    seed: int = 0,
    operator: Component | None = None,
    mask: Component | None = None,
    guidance: Component | None = None,
    sampler: Component | None = None,
    steps: int | None = None,
    settings: StrPath | None = None,
    noise: float | None = None,
    window: Sequence[float] | None = None,
    centre: Literal["foreground", "grid", "header"] | None = None,
    orientation: str | None = None,
    spacing: float | None = None,
    voxel_size: float | None = None,
    field: Literal["grid", "box"] = "grid",
    batch_size: int = 1,
    device: str | None = None,
    dtype: Dtype = "float32",
    memory_gib: float = 4.0,
    stages: int | None = None,
) -> Path:
    """Draws volumes that agree with measurements: ``volgen reconstruct``, bit for bit.

    Args:
        run: directory that :func:`train` made, or ``"pretrained:NAME"``.
        out: folder for the volumes, new or to be continued.
        data: what was measured of one head: raw data of a scanner, or a NIfTI image that ``operator`` measured.
        simulate: a store whose scans are measured by ``operator``, in place of ``data``: then the truth is known.
        split: which scans of ``simulate``.
        people: how many of them; all if None.
        count: volumes of each head.
        seed: volume i depends on the data, this seed and i alone.
        operator: what the instrument does to a volume, such as ``{"kind": "cartesian", "coils": 8}``.
        mask: which lines of k-space ``operator`` measures, such as ``{"kind": "poisson", "acceleration": 8}``.
        guidance: what makes volumes agree with the data; the best there is if None.
        sampler: solver; the run's, or one that fits the guidance, if None.
        steps: how many of the run's noise levels to visit; all if None.
        settings: file that :func:`tune` wrote, for guidance, solver and steps that are not asked for here.
        noise: standard deviation of the noise of the data, where 2 is the intensity window.
        window: intensities of a NIfTI image that are air and the brightest tissue; found in the image if None.
        centre: what of the data comes to the middle of the run's grid.
        orientation: directions of readout, phase encode and slices of fastMRI data, three letters of RLAPSI; ``"PLS"`` if None.
        spacing: distance from a slice of fastMRI data to the next, mm; their thickness if None.
        voxel_size: edge of the voxels that are drawn, mm, the run's times a power of 2; the run's own if None.
        field: field of view of ``simulate``: the run's ``"grid"``, or the ``"box"`` that it computes in.
        batch_size: volumes that ranks hand on together; no volume depends on it.
        device: torch device; a GPU if there is one, if None.
        dtype: voxels of the images; int16 has a slope.
        memory_gib: GiB of a rank for volumes under way, and as much for experts.
        stages: ranks that each volume passes through, if there are several; chosen if None.

    Returns:
        ``out``: ``reconstruction.json`` in it has what was found, ``reconstruction.html`` shows it.

    Raises:
        UserError: the run or the data are damaged or do not fit each other, an option is out of range, or ``out`` holds something else.

    Example:
        >>> out = volgen.reconstruct("pretrained:t1w-1mm", "out", data="scan.h5")  # doctest: +SKIP
    """
    folder: Path = _answer(
        "reconstruct", run=run, out=out, data=data, simulate=None if simulate is None else os.fspath(simulate), split=split, people=people,
        count=count, seed=seed, operator=operator, mask=mask, guidance=guidance, sampler=sampler, steps=steps, settings=settings,
        noise=noise, window=None if window is None else tuple(window), centre=centre, orientation=orientation, spacing=spacing,
        voxel_size=voxel_size, field=field, batch_size=batch_size, device=device, dtype=dtype, memory_gib=memory_gib, stages=stages,
    )  # fmt: skip
    return folder


def tune(
    run: StrPath,
    out: StrPath,
    *,
    simulate: StrPath,
    guidance: Component,
    operator: Component,
    mask: Component | None = None,
    sampler: Component | None = None,
    search: Sequence[str] = (),
    trials: int = 30,
    people: int = 2,
    split: Split = "validation",
    count: int = 1,
    goal: Literal["psnr", "ssim"] = "psnr",
    steps: int | None = None,
    voxel_size: float | None = None,
    field: Literal["grid", "box"] = "grid",
    noise: float | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Finds settings of a reconstruction on validation people: ``volgen tune``.

    Args:
        run: directory that :func:`train` made, or ``"pretrained:NAME"``.
        out: folder for the settings and the trials, new or to be continued.
        simulate: a store whose validation people are measured.
        guidance: whose numbers are looked for, such as ``"dds"``.
        operator: what the instrument does to a volume.
        mask: which lines of k-space ``operator`` measures.
        sampler: solver; the one that the guidance's paper takes if None.
        search: ``"KEY=LOW:HIGH"`` or ``"KEY=LOW:HIGH:log"`` each; where guidance and solver say if there is none.
        trials: how many settings are tried.
        people: on how many people each is tried.
        split: which people; only ``"validation"`` will do.
        count: volumes of each, whose mean is compared with the truth.
        goal: what is to be largest inside the head.
        steps: how many of the run's noise levels to visit; all if None.
        voxel_size: edge of the voxels that are drawn, mm, the run's times a power of 2; the run's own if None.
        field: field of view of ``simulate``: the run's ``"grid"``, or the ``"box"`` that it computes in.
        noise: standard deviation of the noise of the data, where 2 is the intensity window.
        seed: seed of all of it.
        device: torch device; a GPU if there is one, if None.

    Returns:
        The file of settings, which :func:`reconstruct` takes.

    Raises:
        UserError: there is nothing to look for, the run or the store is damaged or they do not fit each other, or ``out`` holds something
            else.

    Example:
        >>> best = volgen.tune("runs/first", "tuned", simulate="cohort.zarr", guidance="dds", operator="cartesian")  # doctest: +SKIP
    """
    file: Path = _answer(
        "tune", run=run, out=out, simulate=os.fspath(simulate), guidance=guidance, operator=operator, mask=mask, sampler=sampler,
        search=tuple(search), trials=trials, people=people, split=split, count=count, goal=goal, steps=steps,
        voxel_size=voxel_size, field=field, noise=noise, seed=seed, device=device,
    )  # fmt: skip
    return file


@overload
def report(samples: StrPath, reference: StrPath, out: StrPath, *, split: Split = ..., real_pictures: bool = ...) -> Judged: ...


@overload
def report(
    samples: Mapping[str, StrPath], reference: StrPath, out: StrPath, *, split: Split = ..., real_pictures: bool = ...
) -> Comparison: ...


def report(
    samples: StrPath | Mapping[str, StrPath],
    reference: StrPath,
    out: StrPath,
    *,
    split: Split = "all",
    real_pictures: bool = True,
) -> Judged | Comparison:
    """Compares volumes with real ones, slice by slice along three axes: ``volgen report``.

    Args:
        samples: an image, a folder of images, or a store; several of them by name are compared with each other too.
        reference: a store of real scans, or the ``bands.json`` of an earlier report.
        out: folder for the page, ``report.json`` and the tables.
        split: people of a reference store to compare with.
        real_pictures: whether slices of three real people of the store are shown beside the volumes.

    Returns:
        The page and how many volumes pass; of several generators their order, best first.

    Raises:
        UserError: there is nothing to judge, or its voxels are not those of the reference.

    Example:
        >>> volgen.report("samples", "cohort.zarr", "report").passed  # doctest: +SKIP
        4
    """
    which: dict[str, Any] = {"samples": samples}
    if isinstance(samples, Mapping):
        which = {"compare": tuple(f"{name}={os.fspath(folder)}" for name, folder in samples.items())}
    found: Judged | Comparison = _answer("report", reference=reference, out=out, split=split, real_pictures=real_pictures, **which)
    return found


@overload
def evaluate(samples: StrPath | Sequence[Image], reference: StrPath) -> dict[str, Any]: ...


@overload
def evaluate(
    samples: StrPath,
    reference: StrPath,
    out: StrPath,
    *,
    split: Split = ...,
    extractor: StrPath | None = ...,
    segmenter: Component | None = ...,
    seed: int = ...,
) -> Evaluated: ...


def evaluate(
    samples: StrPath | Sequence[Image],
    reference: StrPath,
    out: StrPath | None = None,
    *,
    split: Split = "all",
    extractor: StrPath | None = None,
    segmenter: Component | None = None,
    seed: int = 0,
) -> dict[str, Any] | Evaluated:
    """Measures a set of generated volumes as a whole against real people: the cohort's figures of ``volgen report``.

    With ``out`` it is ``volgen evaluate``: every number with its floor and interval, and a page.

    Args:
        samples: images, as :func:`sample` returns them; or an image file, a folder of them, or a store.
        reference: the store of real scans that the run was trained on: both those it learnt from and those it has not seen are needed.
        out: folder for the page, ``evaluation.json`` and the tables; the other options need it, and then samples are files.
        split: people of the store to compare with.
        extractor: TorchScript network that distances are taken in too.
        segmenter: what tells structures apart, such as ``{"kind": "meshnet", "folder": "meshnet"}``.
        seed: seed of the draws of people.

    Returns:
        With ``out`` the page, how many numbers lie inside the bands of real people, and their values. Else the values of each measure in
        ``volgen/evaluation/cohorts`` under its name, such as ``nearest_training`` and ``frechet``; ``targets``, a list of
        ``{"name", "label", "value", "band": [low, high], "pass"}``; ``count`` of volumes on each side, and ``voxel_size``, in mm, of the
        grid that was measured.

    Raises:
        UserError: a volume cannot be read, the shapes differ, or there are too few volumes.

    Example:
        >>> figures = volgen.evaluate(volgen.sample("runs/first", count=16), "cohort.zarr")  # doctest: +SKIP
        >>> figures["frechet"]["ratio"]  # doctest: +SKIP
        2.1
    """
    if out is not None:
        found: Evaluated = _answer(
            "evaluate", samples=samples, reference=reference, out=out, split=split, extractor=extractor, segmenter=segmenter, seed=seed
        )
        return found
    from volgen.commands.report.cohort import measure_cohort
    from volgen.data.sources import sources_of
    from volgen.images import nifti

    if isinstance(samples, str | os.PathLike):
        return measure_cohort([source.read for source in sources_of(Path(samples))], folder_or_address(reference), str(samples))
    return measure_cohort([partial(nifti.of_image, image) for image in samples], folder_or_address(reference), "samples")


def verdicts(samples: StrPath | Sequence[Image], reference: StrPath, *, split: Split = "all") -> dict[str, Any]:
    """Judges volumes one by one against real people: the verdicts of ``volgen report``, without a page, a file or a picture.

    Args:
        samples: images, as :func:`sample` returns them; or an image file, a folder of them, or a store.
        reference: a store of real scans, or the ``bands.json`` of an earlier report, which is quicker: no scan is read again.
        split: people of a reference store to compare with.

    Returns:
        ``pass``, ``other`` and ``fail``, how many volumes are; ``metrics``, for each ``{"label", "outside", "axes"}``: in how many volumes
        it is a finding, and for each axis ``{"median", "real"}``, the median of the volumes beside the 2.5th, 50th and 97.5th percentile of
        real people; ``volumes``, their entries in ``report.json``.

    Raises:
        UserError: a volume cannot be read, there is none, or its voxels are not those of the reference.

    Example:
        >>> found = volgen.verdicts(volgen.sample("runs/first", count=16), "cohort.zarr")  # doctest: +SKIP
        >>> found["pass"], found["metrics"]["fold_course"]["outside"]  # doctest: +SKIP
        (3, 9)
    """
    from volgen.commands.report.verdicts import verdicts
    from volgen.data.sources import sources_of
    from volgen.images import nifti

    if isinstance(samples, str | os.PathLike):
        named = {source.name: source.read for source in sources_of(Path(samples))}
    else:
        named = {str(index): partial(nifti.of_image, image) for index, image in enumerate(samples)}
    return verdicts(named, folder_or_address(reference), split)


def explain(key: str = "") -> str:
    """Says what a key of a configuration means, its unit, range and default: ``volgen explain``.

    Args:
        key: dotted, such as ``"optimiser.learning_rate"``, or a section, such as ``"sampler"``; empty for the list of sections.

    Returns:
        Text for a terminal.

    Raises:
        UserError: there is no such key; the message names the nearest.

    Example:
        >>> print(volgen.explain("optimiser.learning_rate"))  # doctest: +SKIP
    """
    from volgen.commands.explain.explain import explain

    return explain(key)


def __getattr__(name: str) -> Any:
    """:class:`Model` brings torch, and whoever only explains a key shall not wait for it."""
    if name != "Model":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from volgen.runs.model import Model

    return Model


def _answer(command: str, **options: Any) -> Any:
    """What the command gives back to callers in Python."""
    found = module(command)
    return found.run(validate(found.Config, options, f"volgen.{command}")).value


def _words(told: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What is true of somebody, as a command is told it: ``NAME=VALUE``."""
    return tuple(f"{name}={value}" for name, value in (told or {}).items())


def _plain(value: Any) -> Any:
    """A configuration as YAML has it: text for paths."""
    return each(value, lambda item: os.fspath(item) if isinstance(item, os.PathLike) else item)


def _dotted(content: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Every value with its dotted key."""
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{before}{key}"
        pairs += _dotted(value, f"{name}.") if isinstance(value, Mapping) else [(name, _plain(value))]
    return pairs
