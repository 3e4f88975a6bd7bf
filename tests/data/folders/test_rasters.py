# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
import resource
import sqlite3
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from denseg.data.doctor.clean import write_clean_copy
from denseg.data.doctor.doctor import examine
from denseg.data.folders import rasters
from denseg.data.folders.folder import discover
from denseg.data.folders.rasters import plan_windows
from denseg.data.folders.split import assign_split
from denseg.data.reading.images import read_image
from denseg.data.samples.cache import DecodedCache
from denseg.data.samples.dataset import SegmentationDataset
from denseg.data.samples.loader import make_loader
from denseg.data.samples.normalization import Normalization
from denseg.data.samples.pairs import read_pair
from denseg.errors import DataError, ImageError

HEIGHT, WIDTH = 300, 420


def labels_of(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows // 40 + columns // 55) % 3).astype(np.uint8)


def picture_of(labels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 40, (*labels.shape, 3), dtype=np.uint8)
    return noise + labels[:, :, None] * 70


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    """A folder with one tiled raster and its mask, read in windows of about 64."""
    labels = labels_of()
    write(tmp_path, picture_of(labels), labels)
    (tmp_path / "dataset.yaml").write_text("windows: 64\n")
    return tmp_path


def write(root: Path, image: np.ndarray, labels: np.ndarray | None = None, **options: Any) -> None:
    (root / "images").mkdir()
    (root / "masks").mkdir()
    options = {"tile": (64, 64), "compression": "zlib"} | options
    tifffile.imwrite(root / "images/scene.tif", image, photometric="rgb", **options)
    if labels is not None:
        tifffile.imwrite(root / "masks/scene.tif", labels, **options)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side=st.integers(32, 900))
def test_windows_hold_every_pixel_once(height: int, width: int, side: int) -> None:
    windows = plan_windows(height, width, side)
    rows = sorted({(top, h) for top, _, h, _ in windows})
    columns = sorted({(left, w) for _, left, _, w in windows})
    assert len(windows) == len(rows) * len(columns)
    for parts, extent in ((rows, height), (columns, width)):
        assert parts[0][0] == 0
        assert all(first + size == following for (first, size), (following, _) in pairwise(parts))
        assert sum(parts[-1]) == extent
        sizes = {size for _, size in parts}
        assert max(sizes) - min(sizes) <= 1
        assert extent <= 1.5 * side or side * 2 / 3 <= max(sizes) <= 1.5 * side


def test_a_raster_is_a_data_set(raster: Path) -> None:
    examination = examine(raster)
    assert examination.ok
    (finding,) = [finding for finding in examination.findings if finding.code == "windows"]
    assert finding.message == "1 raster is read in 35 windows of about 60 x 60 pixels"
    assert finding.count == 35
    image, labels = read_image(raster / "images/scene.tif"), labels_of()
    for pair in examination.pairs:
        top, left, height, width = pair.window or (0, 0, 0, 0)
        seen, truth = read_pair(pair, examination.encoding, bands=3)
        np.testing.assert_array_equal(seen, image[top : top + height, left : left + width])
        np.testing.assert_array_equal(truth, labels[top : top + height, left : left + width])
    np.testing.assert_array_equal(examination.class_counts(), np.bincount(labels.ravel()))
    assert not {"duplicates", "near-duplicates", "video-neighbours"} & {f.code for f in examination.findings}


def test_splits_part_blocks_of_windows(raster: Path) -> None:
    pairs, made = assign_split(examine(raster).pairs, val_share=0.25, seed=1)
    assert made
    by_group: dict[str, set[str | None]] = {}
    for pair in pairs:
        by_group.setdefault(pair.group, set()).add(pair.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    assert set().union(*by_group.values()) == {"train", "val"}
    assert len(by_group) > 4


def test_windows_are_loaded_by_workers_and_kept(raster: Path, tmp_path: Path) -> None:
    examination = examine(raster)

    def make(cache: DecodedCache | None) -> SegmentationDataset:
        return SegmentationDataset(
            examination.pairs[:6],
            encoding=examination.encoding,
            normalization=Normalization.imagenet(),
            ignore_index=255,
            cache=cache,
        )

    plain = [make(None)[index] for index in range(6)]
    with make_loader(
        make(DecodedCache(tmp_path / "c", limit=1 << 24)), batch_size=1, shuffle=False, workers=2
    ) as loader:
        for epoch in range(2):
            for batch in loader.epoch(epoch):
                expected = plain[int(batch["index"])]
                np.testing.assert_array_equal(batch["images"][0], expected["images"])
                np.testing.assert_array_equal(batch["target"][0], expected["target"])


def test_a_clean_copy_holds_the_windows(raster: Path, tmp_path: Path) -> None:
    examination = examine(raster)
    copy = write_clean_copy(examination, tmp_path.parent / f"{tmp_path.name}-copy")
    assert (copy.written, copy.rewritten) == (35, 35)
    again = examine(copy.folder)
    assert again.ok
    np.testing.assert_array_equal(again.class_counts(), examination.class_counts())


def test_large_rasters_need_no_asking(raster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raster / "dataset.yaml").unlink()
    assert [pair.window for pair in discover(raster).pairs] == [None]
    monkeypatch.setattr(rasters, "LARGE_PIXELS", HEIGHT * WIDTH)
    monkeypatch.setattr(rasters, "WINDOW", 150)
    pairs = discover(raster).pairs
    assert [pair.window for pair in pairs[:2]] == [(0, 0, 150, 140), (0, 140, 150, 140)]
    assert pairs[1].stem == "scene_000_140"


def test_a_mask_of_other_size_or_format_is_told(tmp_path: Path) -> None:
    write(tmp_path, picture_of(labels_of()), labels_of()[:-1])
    (tmp_path / "dataset.yaml").write_text("windows: 64\n")
    message = (
        f"{tmp_path}/masks/scene.tif: the mask is 420 x 299 pixels, its raster scene.tif is 420 x 300; make them equal"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        discover(tmp_path)
    (tmp_path / "masks/scene.tif").unlink()
    from PIL import Image

    Image.fromarray(labels_of()).save(tmp_path / "masks/scene.png")
    message = (
        f"{tmp_path}/masks/scene.png: a mask of 420 x 300 pixels is read in windows, which PNG does not allow; save it"
        " as a tiled TIFF"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        discover(tmp_path)


@pytest.mark.slow
def test_twenty_thousand_by_twenty_thousand(tmp_path: Path) -> None:
    """A raster of 1.2 GB is examined and loaded in memory that knows nothing of its size."""

    def tiles(bands: int) -> Iterator[np.ndarray]:
        for index in range(400):
            tile = np.full((1024, 1024, bands), 20 + index % 7, np.uint8) if bands > 1 else None
            yield np.full((1024, 1024), index % 3, np.uint8) if tile is None else tile

    for kind, bands in (("images", 3), ("masks", 1)):
        (tmp_path / kind).mkdir()
        shape = (20_000, 20_000, 3) if bands == 3 else (20_000, 20_000)
        tifffile.imwrite(
            tmp_path / kind / "scene.tif", tiles(bands), shape=shape, dtype=np.uint8, tile=(1024, 1024),
            compression="zstd", photometric="rgb" if bands == 3 else "minisblack",
        )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inventory = discover(tmp_path)
    assert len(inventory.pairs) == 400
    assert len({pair.group for pair in inventory.pairs}) == 25
    encoding = examine_some(inventory.pairs)
    image, labels = read_pair(inventory.pairs[-1], encoding, bands=3)
    assert image.shape == (1000, 1000, 3)
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB; the raster has 1,200,000


def examine_some(pairs: Any) -> Any:
    from denseg.data.doctor.survey import Look, look_at
    from denseg.data.encoding import MaskEncoding

    facts = [look_at(Look(pair)) for pair in pairs[::40]]
    assert not any(fact.image_fault or fact.mask_fault for fact in facts)
    return MaskEncoding.identity(3)


# --- outlines ---


def feature(name: Any, ring: list[list[float]], *holes: list[list[float]], key: str = "class") -> dict[str, Any]:
    return {
        "type": "Feature",
        "properties": {key: name},
        "geometry": {"type": "Polygon", "coordinates": [ring, *holes]},
    }


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def expected_boxes() -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:100, 20:200] = 1  # house
    labels[40:60, 50:90] = 0  # its yard
    labels[150:290, 300:420] = 2  # water
    labels[80:160, 180:310] = 2
    return labels


def boxes() -> list[dict[str, Any]]:
    water = feature("water", box(300, 150, 500, 290))
    water["geometry"] = {
        "type": "MultiPolygon",
        "coordinates": [[box(300, 150, 500, 290)], [box(180, 80, 310, 160)]],
    }
    point = {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [3, 4]}}
    return [feature("house", box(20, 10, 200, 100), box(50, 40, 90, 60)), water, point]


def assemble(root: Path) -> tuple[Any, np.ndarray]:
    """Examine a folder and put the labels of all windows together."""
    examination = examine(root)
    labels = np.full((HEIGHT, WIDTH), 99, np.uint8)
    for pair in examination.pairs:
        top, left, height, width = pair.window or (0, 0, 0, 0)
        labels[top : top + height, left : left + width] = read_pair(pair, examination.encoding)[1]
    return examination, labels


def test_outlines_in_pixels_are_drawn(tmp_path: Path) -> None:
    write(tmp_path, picture_of(labels_of()))
    (tmp_path / "dataset.yaml").write_text("windows: 100\n")
    (tmp_path / "masks/scene.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": boxes()}))
    examination, labels = assemble(tmp_path)
    assert examination.classes.names == ("background", "house", "water")
    assert examination.ok
    np.testing.assert_array_equal(labels, expected_boxes())


def test_quapaths_classification_is_understood_and_named_classes_keep_their_order(tmp_path: Path) -> None:
    write(tmp_path, picture_of(labels_of()))
    (tmp_path / "dataset.yaml").write_text("windows: 100\nclasses: [water, background, house, tree]\n")
    listed = [feature({"name": "house"}, box(20, 10, 200, 100), key="classification")]
    listed += [feature({"name": "water"}, box(300, 150, 500, 290), key="classification")]
    (tmp_path / "masks/scene.geojson").write_text(json.dumps(listed))
    examination, labels = assemble(tmp_path)
    assert examination.classes.names == ("water", "background", "house", "tree")
    assert (labels[50, 100], labels[200, 350], labels[0, 0]) == (2, 0, 1)


TAGS = [  # pixel scale, tie point, and keys that say: projected, pixels are areas, UTM zone 33 north
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 400_000.0, 5_800_000.0, 0.0), True),
    (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
]


def test_outlines_on_earth_are_brought_into_the_rasters_pixels(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp", reason="needs the extra geo")
    write(tmp_path, picture_of(labels_of()), extratags=TAGS)
    (tmp_path / "dataset.yaml").write_text("windows: 100\n")
    listed = boxes()[:2]
    for one in listed:
        geometry = one["geometry"]
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for part in parts:
            for ring in part:
                x, y = zip(*((400_000 + 10 * px, 5_800_000 - 10 * py) for px, py in ring), strict=True)
                east, north = warp.transform("EPSG:32633", "EPSG:4326", list(x), list(y))
                ring[:] = [list(point) for point in zip(east, north, strict=True)]
    (tmp_path / "masks/scene.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": listed}))
    _, labels = assemble(tmp_path)
    assert (labels != expected_boxes()).mean() < 1e-4


def geopackage(path: Path, features: list[tuple[str, list[list[list[float]]]]], srs: int = 32633) -> None:
    """Write a minimal GeoPackage by its specification."""

    def blob(rings: list[list[list[float]]]) -> bytes:
        body = struct.pack("<BII", 1, 3, len(rings))
        for ring in rings:
            body += struct.pack("<I", len(ring)) + np.asarray(ring, "<f8").tobytes()
        flags = 1 | 1 << 1  # little endian, envelope of four numbers
        return b"GP" + struct.pack("<BBi4d", 0, flags, srs, 0, 0, 0, 0) + body

    base = sqlite3.connect(path)
    base.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
    base.execute("CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id)")
    base.execute("INSERT INTO gpkg_geometry_columns VALUES ('fields', 'geom', ?)", (srs,))
    base.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (?, 'EPSG', ?)", (srs, srs))
    base.execute("CREATE TABLE fields (fid INTEGER PRIMARY KEY, geom BLOB, label TEXT)")
    base.executemany(
        "INSERT INTO fields (geom, label) VALUES (?, ?)", [(blob(rings), name) for name, rings in features]
    )
    base.commit()
    base.close()


def test_a_geopackage_is_read(tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="needs the extra geo")
    write(tmp_path, picture_of(labels_of()), extratags=TAGS)
    (tmp_path / "dataset.yaml").write_text("windows: 100\n")

    def placed(*corners: float) -> list[list[float]]:
        return [[400_000 + 10 * x, 5_800_000 - 10 * y] for x, y in box(*corners)]

    house = [placed(20, 10, 200, 100), placed(50, 40, 90, 60)]
    geopackage(
        tmp_path / "masks/scene.gpkg",
        [("house", house), ("water", [placed(300, 150, 500, 290)]), ("water", [placed(180, 80, 310, 160)])],
    )
    _, labels = assemble(tmp_path)
    np.testing.assert_array_equal(labels, expected_boxes())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "{",
            "cannot be read as outlines: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ("{}", "cannot be read as outlines: no 'features'"),
        (
            json.dumps([feature("a", box(0, 0, 9, 9), key="id")]),
            "none of the properties that all outlines have (id) is called class, label, category, classification, name"
            " or type; rename the one that holds the class",
        ),
    ],
)
def test_outlines_that_cannot_be_read_are_told(tmp_path: Path, content: str, said: str) -> None:
    write(tmp_path, picture_of(labels_of()))
    path = tmp_path / "masks/scene.geojson"
    path.write_text(content)
    again = "; export it again" if "cannot" in said else ""
    with pytest.raises(ImageError, match=f"^{re.escape(f'{path}: {said}{again}')}$"):
        discover(tmp_path)


def test_classes_that_are_not_named_are_told(tmp_path: Path) -> None:
    write(tmp_path, picture_of(labels_of()))
    (tmp_path / "dataset.yaml").write_text("classes: [house]\n")
    (tmp_path / "masks/scene.geojson").write_text(json.dumps(boxes()[:2]))
    message = f"{tmp_path}/masks: outlines of class 'water', which dataset.yaml does not name; add it to classes"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        discover(tmp_path)
