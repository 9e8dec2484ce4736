"""A template made of a cohort's own training people: their mean, symmetric, in the middle of its grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.linalg import expm, logm

from volgen.core.errors import UserError
from volgen.data.ingest.content import no_scan, without_padding
from volgen.data.ingest.discover import Found
from volgen.data.ingest.grid import check
from volgen.data.ingest.itk import interpolated, to_itk
from volgen.data.ingest.preprocess import IngestConfig
from volgen.data.record import split_of
from volgen.images.blocks import block_affine, padded_block_means, voxels_in
from volgen.images.intensity import IntensityMap
from volgen.images.nifti import read_scan
from volgen.images.volume import Volume

COHORT = "cohort"
"""What `registration.template` is called if it is to be made of the cohort itself."""
EDGE = 2.0
"""Edge of a template's voxels in mm: a mean of people holds nothing finer."""
ROOM = 288.0
"""Edge in mm of the cube in which people are averaged: heads with their necks fit in."""
MARGIN = 10.0
"""Air in mm around the foreground of a template."""
FOREGROUND = 0.05
"""Share of a template's range above which it shows people."""
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])
Each = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""Applies a function to each of several things, perhaps in other processes; results in their order."""


def chosen(scans: Iterable[Found], config: IngestConfig) -> list[Found]:
    """Whom a template is made of: one scan of each training person, at most ``registration.people``, whoever else is in the cohort.

    The order is that of a hash of the person's id, so a person more changes one place of a full list, and none of the others.
    """
    first: dict[str, Found] = {}
    for found in sorted(scans, key=lambda found: found.id):
        if split_of(found.patient, config.validation, config.test) == "train":
            first.setdefault(found.patient, found)
    order = sorted(first, key=lambda patient: hashlib.blake2b(patient.encode(), digest_size=8, person=b"volgen template").digest())
    return [first[patient] for patient in order[: config.registration.people]]


def member(found: Found) -> Volume | None:
    """A person as a template takes them: coarse, in [0, 1], about its centre of mass; shading is left in, registration does not mind it.

    Returns:
        None where the scan cannot be used; its own ingest says why.
    """
    try:
        scan = read_scan(found.path)
        check(scan.volume, found.relative)
        if no_scan(scan.volume.voxels, scan.intent) is not None:
            return None
        whole, _ = without_padding(scan.volume)
        edges = [voxels_in(edge, EDGE) for edge in whole.voxel_size]
        affine = block_affine(whole.affine, edges)
        coarse = padded_block_means(whole.voxels.astype(np.float32), edges)
        unit = IntensityMap.robust(coarse).to_unit(coarse)
    except (UserError, OSError, ValueError):
        return None
    places = np.argwhere(unit > unit.mean()).mean(axis=0)
    affine[:3, 3] = -affine[:3, :3] @ places
    return Volume(unit, affine)


def made(members: Sequence[Volume], config: IngestConfig, each: Each) -> Volume:
    """A template of people.

    It begins as the mean of all about their centres of mass. In each round everybody is registered to it and averaged in the frame that is
    the middle of theirs: the mean of the transforms' logarithms (Arsigny et al. 2006) is zero there. Everybody counts with their mirror
    image, so the template is symmetric, and x = 0 is its midsagittal plane.

    Args:
        members: see :func:`member`; at least one.
        config: how they are registered.
        each: does the registrations.
    """
    template = _mean(members, [np.eye(4)] * len(members))
    for _ in range(config.registration.rounds):
        matrices = each(partial(_matrix, template=template, config=config), members)
        logarithms = np.array([logm(matrix).real for matrix in matrices])
        middle = expm(-(logarithms + MIRROR @ logarithms @ MIRROR).mean(axis=0) / 2)
        template = _mean(members, [matrix @ middle for matrix in matrices])
    return _in_the_middle(template)


def _matrix(scan: Volume, template: Volume, config: IngestConfig) -> NDArray[np.float64]:
    found: NDArray[np.float64] = config.registration.matrix(scan, template)
    return found


def _mean(members: Sequence[Volume], matrices: Sequence[NDArray[np.float64]]) -> Volume:
    count = round(ROOM / EDGE)
    affine = np.diag([EDGE, EDGE, EDGE, 1.0])
    affine[:3, 3] = -EDGE * (count - 1) / 2
    total = np.zeros((count, count, count), dtype=np.float64)
    for scan, matrix in zip(members, matrices, strict=True):
        total += interpolated(to_itk(scan), matrix, total.shape, affine, sitk.sitkLinear, 0.0)
    total /= len(members)
    return Volume(((total + total[::-1]) / 2).astype(np.float32), affine)


def _in_the_middle(template: Volume) -> Volume:
    """Cut to the foreground and a margin, and shifted from front to back and from bottom to top so that the middle is the origin."""
    box = []
    for axis in range(3):
        high = template.voxels.max(axis=tuple(a for a in range(3) if a != axis))
        there = np.flatnonzero(high > FOREGROUND * high.max())
        margin = int(MARGIN / EDGE)
        box.append(slice(max(0, int(there[0]) - margin), min(high.size, int(there[-1]) + margin + 1)))
    voxels = np.ascontiguousarray(template.voxels[tuple(box)])
    affine = template.affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(voxels.shape) - 1) / 2)
    return Volume(voxels, affine)
