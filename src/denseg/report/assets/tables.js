// SPDX-License-Identifier: Apache-2.0
// Sorting the per-class table; normalising, ordering and reading the confusion matrix.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const startSorting = (table) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    for (const head of heads) {
      const button = head.querySelector(".sorter");
      if (!button) continue;
      button.addEventListener("click", () => {
        const words = head.dataset.kind === "words";
        const before = head.getAttribute("aria-sort");
        const order = before ? (before === "ascending" ? "descending" : "ascending") : words ? "ascending" : "descending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", order);
        const key = (row) => row.cells[head.cellIndex].dataset.sort;
        const sign = order === "ascending" ? 1 : -1;
        const sorted = [...body.rows].sort((one, other) => {
          const a = key(one);
          const b = key(other);
          if (a === "" || b === "") return (a === "") - (b === ""); // what has no value stands last, either way
          return sign * (words ? a.localeCompare(b) : Number(a) - Number(b));
        });
        body.append(...sorted);
      });
    }
  };

  const startMatrix = (box) => {
    const table = box.querySelector("table");
    const { names, counts, iou } = JSON.parse(box.dataset.matrix);
    const sentence = box.querySelector(".sentence");
    const rowSums = counts.map((row) => row.reduce((sum, value) => sum + value, 0));
    const columnSums = names.map((_, at) => counts.reduce((sum, row) => sum + row[at], 0));
    const percent = (value) => (value === 0 || value >= 0.1 ? value.toFixed(value < 10 ? 1 : 0) : "< 0.1");
    const cells = new Map();
    [...table.tBodies[0].rows].forEach((row, truth) => {
      [...row.querySelectorAll("td")].forEach((cell, called) => cells.set(cell, [truth, called]));
    });
    let by = "truth";

    const words = (truth, called) => {
      const pixels = counts[truth][called].toLocaleString("en");
      const ofTruth = rowSums[truth] ? `, ${percent((100 * counts[truth][called]) / rowSums[truth])}% of all true ${names[truth]}` : "";
      const ofCalled = columnSums[called]
        ? `, ${percent((100 * counts[truth][called]) / columnSums[called])}% of all predicted ${names[called]}`
        : "";
      const what = truth === called ? `${names[truth]} found` : `${names[truth]} taken for ${names[called]}`;
      return `${what}: ${pixels} pixels${ofTruth}${ofCalled}.`;
    };
    const paint = () => {
      const top = Math.max(...counts.flat(), 1);
      for (const [cell, [truth, called]] of cells) {
        const sum = by === "prediction" ? columnSums[called] : rowSums[truth];
        const part = sum ? counts[truth][called] / sum : 0;
        const value = by === "pixels" ? Math.log1p(counts[truth][called]) / Math.log1p(top) : part;
        cell.style.setProperty("--v", (100 * (truth === called ? value : Math.min(1, Math.sqrt(value) * 1.1))).toFixed(1));
        const short = { notation: "compact", maximumSignificantDigits: 2 };
        if (!counts[truth][called]) cell.textContent = "";
        else if (by === "pixels") cell.textContent = new Intl.NumberFormat("en", short).format(counts[truth][called]);
        else cell.textContent = part < 0.005 ? "·" : (100 * part).toFixed(0);
      }
    };
    const arrange = (order) => {
      const at = names.map((_, index) => index);
      const keys = { iou: (index) => iou[index] ?? 2, pixels: (index) => -rowSums[index] };
      if (keys[order]) at.sort((a, b) => keys[order](a) - keys[order](b));
      const body = table.tBodies[0];
      const grid = new Map([...cells].map(([cell, [truth, called]]) => [`${truth},${called}`, cell]));
      const heads = [...table.tHead.rows[0].cells].slice(1).sort((a, b) => a.dataset.at - b.dataset.at);
      const rows = [...body.rows].sort((a, b) => a.dataset.at - b.dataset.at);
      table.tHead.rows[0].append(...at.map((index) => heads[index]));
      body.append(...at.map((index) => rows[index]));
      for (const row of body.rows) row.append(...at.map((called) => grid.get(`${row.dataset.at},${called}`)));
    };
    const say = (event) => {
      const place = cells.get(event.target);
      if (place) sentence.textContent = words(...place);
    };
    const step = (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!move || !cells.has(event.target)) return;
      event.preventDefault();
      const row = event.target.parentElement;
      const next = table.tBodies[0].rows[row.sectionRowIndex + move[0]]?.cells[event.target.cellIndex + move[1]];
      if (!next || next.tagName !== "TD") return;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    };
    for (const [cell, place] of cells) {
      cell.tabIndex = cell === cells.keys().next().value ? 0 : -1;
      cell.setAttribute("aria-label", words(...place));
    }
    table.addEventListener("pointerover", say);
    table.addEventListener("focusin", say);
    table.addEventListener("keydown", step);
    box.addEventListener("change", (event) => {
      if (event.target.name === "matrix-order") return arrange(event.target.value);
      by = event.target.value;
      return paint();
    });
    box.querySelector(".controls").hidden = false;
    paint();
  };

  document.querySelectorAll("table[data-sortable]").forEach(startSorting);
  document.querySelectorAll("[data-matrix]").forEach(startMatrix);
});
