# SPDX-License-Identifier: Apache-2.0
"""Masks drawn from outlines over a raster: GeoJSON and GeoPackage, polygons with a class among their properties.

Where the raster says where on Earth it lies, outlines are brought into its coordinates (GeoJSON is in degrees of WGS 84
unless it says otherwise); this takes the extra ``[geo]``. Over a plain raster they count as pixels, x to the right and
y down, as QuPath writes them. 0 is background, classes follow in the order of their names; later outlines lie on top of
earlier ones.

Letters: h and w height and width of a window in pixels.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denseg.data.folders.description import ClassDescription, Description
from denseg.data.folders.rasters import VECTORS
from denseg.data.reading.annotations import fill_rings
from denseg.data.reading.stored import Decoded, Header
from denseg.errors import DataError, ImageError

__all__ = ["categories", "describe", "drawn_pixels"]

PROPERTIES = ("class", "label", "category", "classification", "name", "type")
WGS84 = "EPSG:4326"

Points = NDArray[np.float64]


class Outline(NamedTuple):
    """One polygon.

    Attributes:
        rings: ``(n, 2)`` x and y each; the first is the border, the others are holes.
        name: Its class.
    """

    rings: tuple[Points, ...]
    name: str


def categories(folder: Path) -> tuple[str, ...]:
    """List the classes of all outlines in a folder.

    Args:
        folder: Where the files are.

    Returns:
        Their names, sorted.

    Raises:
        ImageError: A file cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in VECTORS)
    return tuple(sorted({outline.name for path in files for outline in _outlines(path)[0]}))


def describe(description: Description, files: Sequence[Path]) -> Description:
    """Say which class each drawn value means.

    Args:
        description: What ``dataset.yaml`` says; its classes keep their order, and background comes first where it is
            not among them.
        files: The outlines.

    Returns:
        The description with the classes and their values.

    Raises:
        DataError: An outline has a class that ``dataset.yaml`` does not name.
    """
    folders = {path.parent: categories(path.parent) for path in files}
    (folder, names), *others = folders.items()
    for other, found in others:
        if found != names:
            raise DataError(
                f"{other}: the outlines have other classes than those in {folder}; name them alike", path=other
            )
    background = ClassDescription(name="background", color=(0, 0, 0))
    listed = description.classes or tuple(ClassDescription(name=name) for name in names if name != "background")
    if "background" not in {one.name for one in listed}:
        listed = (background, *listed)
    known = {one.name for one in listed}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"{folder}: outlines of class {unknown[0]!r}, which {description.source} does not name; add it to classes",
            path=folder,
        )
    place = {name: index + 1 for index, name in enumerate(names)} | {"background": 0}
    unused = iter(range(len(names) + 1, len(names) + 1 + len(listed)))
    classes = tuple(
        one.model_copy(update={"value": place[one.name] if one.name in place else next(unused)}) for one in listed
    )
    return description.model_copy(update={"classes": classes})


def drawn_pixels(path: Path, raster: Path, window: tuple[int, int, int, int]) -> Decoded:
    """Draw the outlines that lie in a window of a raster.

    Args:
        path: The outlines.
        raster: The picture they belong to.
        window: ``(top, left, h, w)`` in pixels of the raster.

    Returns:
        0 for background, 1 for the first class of :func:`categories`, ….

    Raises:
        ImageError: A file cannot be read, or the extra ``[geo]`` is needed and not there.
    """
    top, left, height, width = window
    names = categories(path.parent)
    mask = np.zeros((height, width), np.uint8 if len(names) < 255 else np.uint16)
    for rings, name in _placed(path, path.stat().st_mtime_ns, raster):
        low, high = rings[0].min(axis=0), rings[0].max(axis=0)
        if high[0] <= left or high[1] <= top or low[0] >= left + width or low[1] >= top + height:
            continue
        mask[fill_rings([ring - (left, top) for ring in rings], height, width)] = (
            0 if name == "background" else names.index(name) + 1
        )
    return Decoded(Header(height, width, 1, mask.dtype.name, "grey", "VECTOR", path.suffix[1:].upper()), mask)


@lru_cache(maxsize=8)
def _placed(path: Path, changed: int, raster: Path) -> tuple[Outline, ...]:
    """Bring outlines into pixels of their raster."""
    outlines, system = _outlines(path)
    to_pixels = _georeference(raster)
    if to_pixels is None:
        return outlines
    raster_system, inverse = to_pixels
    placed = []
    for outline in outlines:
        rings = outline.rings
        if system != raster_system:
            rings = tuple(_moved(ring, system, raster_system) for ring in rings)
        placed.append(Outline(tuple(ring @ inverse[:, :2].T + inverse[:, 2] for ring in rings), outline.name))
    return tuple(placed)


def _georeference(raster: Path) -> tuple[str, Points] | None:
    """Read the coordinate system of a raster and the ``(2, 3)`` matrix from its coordinates to pixels."""
    from denseg.data.reading.windows import TiffWindows

    with TiffWindows(raster) as opened:
        if not opened.geo_tags:
            return None
    try:
        import rasterio
    except ImportError as error:
        raise ImageError(
            f"{raster}: outlines over a georeferenced raster need the extra geo; pip install 'denseg[geo]'", path=raster
        ) from error
    with rasterio.open(raster) as opened_raster:
        crs, inverse = opened_raster.crs, ~opened_raster.transform
    if crs is None:
        raise ImageError(f"{raster}: has a place but no coordinate system that can be read; save it again", path=raster)
    return crs.to_string(), np.asarray(((inverse.a, inverse.b, inverse.c), (inverse.d, inverse.e, inverse.f)))


def _moved(ring: Points, source: str, target: str) -> Points:
    from rasterio.warp import transform

    return np.stack(transform(source, target, ring[:, 0].tolist(), ring[:, 1].tolist()), axis=1)


def _outlines(path: Path) -> tuple[tuple[Outline, ...], str]:
    """Read a file's outlines and the coordinate system they are in."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except ImageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error, sqlite3.Error) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ImageError(f"{path}: cannot be read as outlines: {said}; export it again", path=path) from error


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> tuple[tuple[Outline, ...], str]:
    features, system = _geojson(path) if path.suffix.lower() == ".geojson" else _geopackage(path)
    key = _class_property(path, [properties for properties, _ in features])
    outlines = []
    for properties, polygons in features:
        value = properties[key]
        name = str(value["name"] if isinstance(value, dict) else value)
        outlines += [Outline(rings, name) for rings in polygons]
    return tuple(outlines), system


def _class_property(path: Path, properties: Sequence[Mapping[str, Any]]) -> str:
    shared = set.intersection(*(set(one) for one in properties)) if properties else set(PROPERTIES)
    lower = {name.lower(): name for name in sorted(shared)}
    found = next((lower[name] for name in PROPERTIES if name in lower), None)
    if found is None:
        listed = ", ".join(sorted(shared)[:8]) or "none"
        raise ImageError(
            f"{path}: none of the properties that all outlines have ({listed}) is called class, label, category,"
            " classification, name or type; rename the one that holds the class",
            path=path,
        )
    return found


_Features = list[tuple[Mapping[str, Any], list[tuple[Points, ...]]]]


def _geojson(path: Path) -> tuple[_Features, str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    listed = content if isinstance(content, list) else content["features"]
    features: _Features = []
    for feature in listed:
        geometry = feature["geometry"]
        if geometry is None or geometry["type"] not in {"Polygon", "MultiPolygon"}:
            continue  # points and lines have no area
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        features.append((feature.get("properties") or {}, [_rings(part) for part in parts]))
    named = content.get("crs") if isinstance(content, dict) else None
    return features, WGS84 if named is None else _authority(named["properties"]["name"])


def _rings(part: Any) -> tuple[Points, ...]:
    return tuple(np.asarray([point[:2] for point in ring], np.float64) for ring in part)


def _authority(name: str) -> str:
    """Turn ``urn:ogc:def:crs:EPSG::32633`` into ``EPSG:32633``."""
    parts = [part for part in name.split(":") if part]
    return WGS84 if parts[-1] == "CRS84" else f"{parts[-2] if len(parts) < 7 else parts[-3]}:{parts[-1]}"


def _geopackage(path: Path) -> tuple[_Features, str]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as base:
        base.row_factory = sqlite3.Row
        tables = base.execute("SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns").fetchall()
        if len(tables) != 1:
            raise ImageError(f"{path}: holds {len(tables)} layers of outlines; export one", path=path)
        table, column, number = tables[0]
        found = base.execute(
            "SELECT organization, organization_coordsys_id FROM gpkg_spatial_ref_sys WHERE srs_id = ?", (number,)
        ).fetchone()
        quoted = table.replace('"', '""')
        rows = base.execute(f'SELECT * FROM "{quoted}"').fetchall()  # noqa: S608 - quoted, and the file is only read
    features: _Features = []
    for row in rows:
        polygons = [] if row[column] is None else list(_blob_polygons(row[column]))
        if polygons:
            features.append(({key: row[key] for key in row.keys() if key != column}, polygons))  # noqa: SIM118
    return features, f"{found[0].upper()}:{found[1]}" if found else WGS84


def _blob_polygons(blob: bytes) -> Iterator[tuple[Points, ...]]:
    """Read a GeoPackage geometry: a header, an envelope, and well-known binary."""
    if blob[:2] != b"GP":
        raise ValueError("geometry is not GeoPackage's")
    envelope = (0, 32, 48, 48, 64)[(blob[3] >> 1) & 7]
    yield from _binary_polygons(blob, 8 + envelope)[0]


def _binary_polygons(blob: bytes, at: int) -> tuple[list[tuple[Points, ...]], int]:
    order = "<" if blob[at] else ">"
    kind, count = struct.unpack_from(f"{order}II", blob, at + 1)
    at += 9
    flags, kind = kind >> 28, kind & 0x0FFFFFFF
    depth = 2 + (kind // 1000 in (1, 3)) + (kind // 1000 in (2, 3)) + bool(flags & 8) + bool(flags & 4)
    polygons: list[tuple[Points, ...]] = []
    if kind % 1000 == 6:
        for _ in range(count):
            inner, at = _binary_polygons(blob, at)
            polygons += inner
        return polygons, at
    if kind % 1000 != 3:
        return [], len(blob)
    rings = []
    for _ in range(count):
        (points,) = struct.unpack_from(f"{order}I", blob, at)
        values = np.frombuffer(blob, f"{order}f8", points * depth, at + 4).reshape(points, depth)
        rings.append(values[:, :2].astype(np.float64))
        at += 4 + values.nbytes
    return [tuple(rings)], at
