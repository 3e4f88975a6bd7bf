# SPDX-License-Identifier: Apache-2.0
"""What the facts of single files say: unreadable, of other size, of other bands or depth, constant, swapped, empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from denseg.data.doctor.findings import Finding, find
from denseg.data.doctor.survey import FEW_VALUES, ImageFacts, MaskFacts, PairFacts
from denseg.data.folders.folder import Inventory, Pair

__all__ = ["check_files", "check_pairing", "same_size"]

Facts = Sequence[tuple[Pair, PairFacts]]
EXTREME_PIXELS = 50_000_000
EXTREME_SIDE = 16
EXTREME_RATIO = 20
MANY = 0.5  # of the masks


def check_pairing(inventory: Inventory, *, skip_unpaired: bool) -> list[Finding]:
    """Judge how pictures and masks found each other.

    Args:
        inventory: The folder.
        skip_unpaired: Whether files without a partner are passed over.

    Returns:
        The findings.
    """
    findings = []
    images, masks = inventory.unpaired_images, inventory.unpaired_masks
    if not inventory.pairs:
        which = [path.stem for path in (*images[:1], *masks[:1])]
        example = f": {which[0]!r} and {which[1]!r}" if images and masks else ""
        message = f"{len(images)} pictures and {len(masks)} masks, and none share a name{example}"
        findings.append(find("no-pairs", message, "give a picture and its mask the same name", files=(*images, *masks)))
        return findings
    if images and skip_unpaired:
        message = f"{_count(images, 'picture has', 'pictures have')} no mask"
        findings.append(find("images-skipped", message, "leave them out, as `unpaired: skip` says", files=images))
    elif images:
        message = f"{_count(images, 'picture has', 'pictures have')} no mask"
        action = "add the masks, remove the pictures, or leave them out with --set data.unpaired=skip"
        findings.append(find("image-without-mask", message, action, files=images))
    if masks:
        message = f"{_count(masks, 'mask has', 'masks have')} no picture"
        findings.append(find("mask-without-image", message, "leave them out", files=masks))
    windows = [pair for pair in inventory.pairs if pair.window]
    if windows:
        rasters = list(dict.fromkeys(pair.image for pair in windows))
        _, _, height, width = windows[0].window or (0, 0, 0, 0)
        message = f"{_count(rasters, 'raster is', 'rasters are')} read in {len(windows)} windows of about"
        message += f" {width} x {height} pixels"
        action = "read each where it lies, and hold out blocks of them; `windows` in dataset.yaml sets their size"
        findings.append(find("windows", message, action, files=rasters, count=len(windows)))
    if inventory.twice:
        files = [path for claimed in inventory.twice.values() for path in claimed]
        name, claimed = next(iter(inventory.twice.items()))
        message = f"{_count(inventory.twice, 'name is', 'names are')} claimed by several files, first {name!r}:"
        message += f" {', '.join(path.name for path in claimed)}"
        action = "keep one picture and one mask of each name"
        findings.append(find("twice-paired", message, action, files=files, count=len(inventory.twice)))
    return findings


def check_files(facts: Facts) -> list[Finding]:
    """Judge every file by itself and beside the others.

    Args:
        facts: Each pair and what it holds.

    Returns:
        The findings.
    """
    return [*_unreadable(facts), *_sizes(facts), *_pictures(facts), *_masks(facts), *_swapped(facts)]


def same_size(facts: PairFacts) -> bool:
    """Say whether both files can be read and agree in size."""
    if facts.image is None or facts.mask is None:
        return False
    return _size(facts.image) == _size(facts.mask)


def _size(facts: ImageFacts | MaskFacts) -> tuple[int, int]:
    return facts.info.height, facts.info.width


def _unreadable(facts: Facts) -> list[Finding]:
    findings = []
    for code, what, faults in (
        ("image-unreadable", "picture", [(pair.image, fact.image_fault) for pair, fact in facts if fact.image_fault]),
        ("mask-unreadable", "mask", [(pair.mask, fact.mask_fault) for pair, fact in facts if fact.mask_fault]),
    ):
        if faults:
            files = [path for path, _ in faults]
            message = f"{_count(faults, f'{what} cannot', f'{what}s cannot')} be read: {faults[0][1]}"
            action = f"replace or remove them; or accept losing them with --set data.accept=[{code}]"
            findings.append(find(code, message, action, files=files))
    return findings


def _sizes(facts: Facts) -> list[Finding]:
    causes: dict[str, list[tuple[Pair, ImageFacts, MaskFacts]]] = {}
    for pair, fact in facts:
        if fact.image is not None and fact.mask is not None and not same_size(fact):
            causes.setdefault(_cause(fact.image, fact.mask), []).append((pair, fact.image, fact.mask))
    findings = []
    for cause, found in causes.items():
        pair, image, mask = found[0]
        count = f"{_count(found, 'mask differs', 'masks differ')} in size from the picture"
        sizes = (
            f"{mask.info.width} x {mask.info.height} and {image.info.width} x {image.info.height} in {pair.mask.name}"
        )
        message, action = {
            "rotated": (
                f"{count}, which its EXIF tag turns and the mask does not follow: {sizes}",
                "turn the masks too, or save the pictures without the EXIF tag",
            ),
            "turned": (f"{count}, turned by 90 degrees: {sizes}", "turn the masks"),
            "by a pixel": (f"{count}, by one or two pixels: {sizes}", "crop or pad the masks without resizing them"),
            "scaled": (f"{count}, with the same shape: {sizes}", "resize the masks with nearest neighbour"),
            "other": (f"{count}: {sizes}", "check that these masks belong to these pictures"),
        }[cause]
        findings.append(find("size-mismatch", message, action, files=[pair.mask for pair, _, _ in found]))
    return findings


def _cause(image: ImageFacts, mask: MaskFacts) -> str:
    height, width = _size(image)
    if _size(mask) == (width, height):
        return "rotated" if image.info.orientation >= 5 else "turned"
    if abs(mask.info.height - height) <= 2 and abs(mask.info.width - width) <= 2:
        return "by a pixel"
    scale = mask.info.height / height
    return "scaled" if abs(mask.info.width - scale * width) <= 1 + scale else "other"


def _pictures(facts: Facts) -> list[Finding]:
    images = [(pair.image, fact.image) for pair, fact in facts if fact.image is not None]
    findings = []

    def some(test: Callable[[ImageFacts], bool]) -> list[Path]:
        return [path for path, image in images if test(image)]

    bands = Counter(image.info.bands for _, image in images)
    if len(bands) > 1:
        most = max(bands, key=lambda band: (bands[band], band))
        files = some(lambda image: image.info.bands != most)
        listed = ", ".join(f"{count} with {band}" for band, count in sorted(bands.items()))
        if set(bands) == {1, 3}:
            grey = some(lambda image: image.info.bands == 1)
            message = f"grey pictures among colour: {listed} bands"
            findings.append(
                find("grey-among-color", message, "repeat the grey band in red, green and blue", files=grey)
            )
        else:
            message = f"pictures differ in their number of bands: {listed}"
            findings.append(find("bands-differ", message, "give all pictures the same bands", files=files))
    depths = Counter(image.info.dtype for _, image in images)
    if len(depths) > 1:
        most_used = max(depths, key=lambda name: (depths[name], name))
        listed = ", ".join(f"{count} {name}" for name, count in sorted(depths.items()))
        files = some(lambda image: image.info.dtype != most_used)
        message = f"pictures differ in the type of their values: {listed}"
        findings.append(find("depth-differs", message, "save all pictures in one type", files=files))
    elif depths and "uint8" not in depths:
        name = next(iter(depths))
        low = min(min(image.low) for _, image in images)
        high = max(max(image.high) for _, image in images)
        message = f"pictures hold {name} values from {low:g} to {high:g}"
        findings.append(
            find("deep-images", message, "keep their full depth; normalise by what train holds", count=len(images))
        )
    for code, test, verb, message, action in _EACH:
        files = some(test)
        if files:
            said = f"{_count(files, f'picture {verb[0]}', f'pictures {verb[1]}')} {message}"
            findings.append(find(code, said, action, files=files))
    return findings


def _constant(image: ImageFacts) -> bool:
    return image.low == image.high


def _extreme(image: ImageFacts) -> bool:
    height, width = _size(image)
    ratio = max(height, width) / min(height, width)
    return height * width > EXTREME_PIXELS or min(height, width) < EXTREME_SIDE or ratio > EXTREME_RATIO


_HAVE, _HOLD, _ARE = ("has", "have"), ("holds", "hold"), ("is", "are")
_EACH: tuple[tuple[str, Callable[[ImageFacts], bool], tuple[str, str], str, str], ...] = (
    ("nan-pixels", lambda image: image.holes > 0, _HOLD, "NaN, infinity or no data", "give those pixels no label"),
    ("alpha", lambda image: image.info.alpha, _HAVE, "transparency", "show transparent pixels as black"),
    ("cmyk", lambda image: image.info.mode in {"CMYK", "SEPARATED"}, _ARE, "in CMYK", "convert them to RGB"),
    ("constant-image", _constant, _HOLD, "a single value", "check them; they teach nothing"),
    ("extreme-size", _extreme, _ARE, "of extreme size", "check them; large ones are cropped for training"),
    ("several-frames", lambda image: image.info.frames > 1, _HOLD, "several pages or frames", "read the first one"),
)


def _masks(facts: Facts) -> list[Finding]:
    findings = []
    clear = [pair.mask for pair, fact in facts if fact.mask is not None and fact.mask.transparent > 0]
    if clear:
        message = f"{_count(clear, 'mask has', 'masks have')} transparent pixels"
        findings.append(find("mask-alpha", message, "read fully transparent pixels as black", files=clear))
    paged = [
        pair.mask
        for pair, fact in facts
        if fact.mask is not None and fact.mask.info.frames > 1 and (fact.image is None or fact.image.info.frames == 1)
    ]
    if paged:
        message = f"{_count(paged, 'mask holds', 'masks hold')} several pages, the picture one"
        findings.append(find("several-frames", message, "read the first one", files=paged))
    return findings


def _swapped(facts: Facts) -> list[Finding]:
    """Find folders whose pictures look like masks and whose masks look like pictures."""
    both = [(pair, fact.image, fact.mask) for pair, fact in facts if fact.image is not None and fact.mask is not None]
    swapped = [
        pair.image
        for pair, image, mask in both
        if _like_a_mask(image) and mask.kind != "float" and _like_a_picture(mask)
    ]
    if len(swapped) <= MANY * len(both):
        return []
    message = f"{len(swapped)} of {len(both)} masks look like photographs and their pictures like masks"
    return [find("swapped", message, "exchange the two folders", files=swapped)]


def _like_a_mask(image: ImageFacts) -> bool:
    return image.levels <= FEW_VALUES


def _like_a_picture(mask: MaskFacts) -> bool:
    return len(mask.values) > 64 and int(mask.counts.max(initial=0)) < MANY * int(mask.counts.sum())


def _count(found: Iterable[object], one: str, many: str) -> str:
    count = len(list(found))
    return f"{count} {one if count == 1 else many}"
