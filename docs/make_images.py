# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of the documentation: ``python docs/make_images.py [DEMO]``.

Runs ``denseg demo`` (or takes the folder of one) and photographs its report in headless Chromium. The pictures
show the embedded data set only, which is drawn from a seed and belongs to nobody.
"""

from __future__ import annotations

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
WIDTH, HEIGHT = 1200, 760


def main() -> None:
    """Write ``docs/images/report.png``."""
    with tempfile.TemporaryDirectory() as scratch:
        demo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "demo"
        if not (demo / "run" / "report.html").is_file():
            subprocess.run([sys.executable, "-m", "denseg", "demo", "--out", str(demo)], check=True)  # noqa: S603
        photograph((demo / "run" / "report.html").resolve(), IMAGES / "report.png")


def photograph(page_path: Path, picture: Path) -> None:
    """Write the top of a page as a picture of 256 colours, at twice the pixels for sharp screens.

    Args:
        page_path: The HTML file.
        picture: Where.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5)
        page.goto(page_path.as_uri())
        page.screenshot(path=picture)
        browser.close()
    with Image.open(picture) as image:
        image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT).save(picture, optimize=True)


if __name__ == "__main__":
    main()
