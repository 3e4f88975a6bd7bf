// SPDX-License-Identifier: Apache-2.0
// The read-out of the line charts: follows the pointer, and the arrow keys when the plot has the focus.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  for (const area of document.querySelectorAll(".plot .area")) {
    const { places, labels, lines, unit } = JSON.parse(area.dataset.chart);
    const hair = area.querySelector(".hair");
    const readout = area.querySelector(".readout");
    let at = places.length - 1;

    const show = () => {
      hair.hidden = false;
      readout.hidden = false;
      hair.style.left = `${places[at]}%`;
      readout.replaceChildren();
      const title = document.createElement("b");
      title.textContent = `${unit} ${labels[at]}`;
      readout.append(title);
      for (const line of lines) {
        if (!line.values[at]) continue;
        const row = document.createElement("div");
        row.className = line.tone;
        for (const text of [line.name, line.values[at]]) {
          const part = document.createElement("span");
          part.textContent = text;
          row.append(part);
        }
        readout.append(row);
      }
      const left = places[at] > 55;
      readout.style.left = left ? "auto" : `calc(${places[at]}% + 0.625rem)`;
      readout.style.right = left ? `calc(${100 - places[at]}% + 0.625rem)` : "auto";
    };
    const hide = () => {
      hair.hidden = true;
      readout.hidden = true;
    };
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      const x = (100 * (event.clientX - box.left)) / box.width;
      at = places.reduce((best, place, index) => (Math.abs(place - x) < Math.abs(places[best] - x) ? index : best), 0);
      show();
    });
    area.addEventListener("pointerleave", hide);
    area.addEventListener("focus", show);
    area.addEventListener("blur", hide);
    area.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: places.length - 1 };
      if (event.key === "Escape") return hide();
      if (!(event.key in moves)) return undefined;
      event.preventDefault();
      at = Math.min(Math.max(moves[event.key], 0), places.length - 1);
      return show();
    });
  }
});
