# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of the documentation: ``python docs/make_images.py [DEMO]``.

Runs ``denseg demo`` (or takes the folder of one) and photographs its report in headless Chromium. The pictures
show the embedded data set only, which is drawn from a seed and belongs to nobody.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

__all__ = ["main"]

IMAGES = Path(__file__).resolve().parent / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WIDTH, HEIGHT, SCALE, GAP = 1000, 760, 1.25, 24


def main() -> None:
    """Write ``docs/images/report.png``."""
    with tempfile.TemporaryDirectory() as scratch:
        demo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "demo"
        if not (demo / "run" / "report.html").is_file():
            subprocess.run([sys.executable, "-m", "denseg", "demo", "--out", str(demo)], check=True)  # noqa: S603
        photograph((demo / "run" / "report.html").resolve(), IMAGES / "report.png")


def photograph(page_path: Path, picture: Path) -> None:
    """Write two views of a report side by side, as a picture of 256 colours: its summary, and its images.

    Args:
        page_path: The HTML file.
        picture: Where.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE)
        page.goto(page_path.as_uri())
        views = [page.screenshot()]
        controls = page.get_by_text("Over the image").first
        controls.evaluate("element => window.scrollTo(0, element.getBoundingClientRect().top + scrollY - 125)")
        page.wait_for_timeout(500)  # pictures are decoded when they come into view
        views.append(page.screenshot())
        browser.close()
    first, second = (Image.open(io.BytesIO(view)).convert("RGB") for view in views)
    both = Image.new("RGB", (first.width + second.width + GAP, first.height), "white")
    both.paste(first, (0, 0))
    both.paste(second, (first.width + GAP, 0))
    both.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
