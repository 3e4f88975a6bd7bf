// SPDX-License-Identifier: Apache-2.0
// Images: the slider between truth and prediction, what lies over the image, the class under the pointer, enlarging.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const section = document.querySelector("[data-view]");
  if (!section) return;
  const classes = JSON.parse(section.dataset.classes);
  const large = section.querySelector(".large");

  // Labels are pictures in the colours of their classes; reading a pixel's colour back gives the class.
  const readers = new WeakMap();
  const reader = (image) => {
    if (!image?.complete || !image.naturalWidth) return null;
    if (!readers.has(image)) {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      readers.set(image, context);
    }
    return readers.get(image);
  };
  const classAt = (image, x, y) => {
    const context = reader(image);
    if (!context) return null;
    const { width, height } = context.canvas;
    const column = Math.min(Math.max(Math.floor(x * width), 0), width - 1);
    const line = Math.min(Math.max(Math.floor(y * height), 0), height - 1);
    const [red, green, blue, alpha] = context.getImageData(column, line, 1, 1).data;
    if (alpha === 0) return "no label";
    const far = ([, color]) => (color[0] - red) ** 2 + (color[1] - green) ** 2 + (color[2] - blue) ** 2;
    return classes.reduce((best, entry) => (far(entry) < far(best) ? entry : best))[0];
  };

  const startViewer = (viewer) => {
    const slider = viewer.querySelector("input");
    const under = viewer.querySelector(".under");
    const truth = viewer.querySelector(".truth");
    const prediction = viewer.querySelector(".prediction");
    slider?.addEventListener("input", () => viewer.style.setProperty("--at", `${slider.value}%`));
    viewer.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const box = viewer.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width;
      const y = (event.clientY - box.top) / box.height;
      const called = prediction && classAt(prediction, x, y);
      const right = truth && classAt(truth, x, y);
      under.textContent = right && called && right !== called ? `truth ${right}, prediction ${called}` : right || called;
      under.hidden = !(right || called);
    });
    viewer.addEventListener("pointerleave", () => {
      under.hidden = true;
    });
  };
  section.querySelectorAll(".viewer").forEach(startViewer);

  section.addEventListener("change", (event) => {
    if (event.target.name === "view") section.dataset.view = event.target.value;
  });
  const strength = section.querySelector("[data-strength]");
  strength.addEventListener("input", () => section.style.setProperty("--strength", strength.value / 100));

  for (const button of section.querySelectorAll("[data-enlarge]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const shot = button.closest(".shot");
      const viewer = shot.querySelector(".viewer").cloneNode(true);
      const ratio = Number(viewer.dataset.ratio);
      viewer.style.width = `min(100%, calc((96vh - 4.5rem) * ${ratio}))`;
      large.querySelector("h2").textContent = shot.querySelector("h3, h4").textContent;
      large.querySelector(".viewer")?.remove();
      large.append(viewer);
      startViewer(viewer);
      large.showModal();
      viewer.querySelector("input")?.focus();
    });
  }
  large.addEventListener("click", (event) => {
    if (event.target === large || event.target.closest("[data-close]")) large.close();
  });
  section.querySelector(".controls").hidden = false;
});
