// SPDX-License-Identifier: Apache-2.0
// Theme, contents, copying: what every page has. The page reads well without any of it.
"use strict";

(() => {
  const root = document.documentElement;
  const remembered = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("denseg-theme");
      localStorage.setItem("denseg-theme", value);
    } catch {
      // a page opened as a file may have no storage; the choice then lasts as long as the page
    }
    return null;
  };
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = remembered();
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;

  const startTheme = () => {
    const button = document.querySelector("[data-theme-toggle]");
    const label = () => {
      button.textContent = dark() ? "Light" : "Dark";
      button.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours");
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      remembered(root.dataset.theme);
      label();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    label();
  };

  const startContents = () => {
    const links = [...document.querySelectorAll(".contents a")];
    const sections = links.map((link) => document.querySelector(link.hash));
    const mark = () => {
      const edge = innerHeight * 0.3;
      let at = 0;
      sections.forEach((section, index) => {
        if (section.getBoundingClientRect().top < edge) at = index;
      });
      if (scrollY > 0 && scrollY + innerHeight >= root.scrollHeight - 4) at = links.length - 1;
      links.forEach((link, index) => {
        if (index !== at) return link.removeAttribute("aria-current");
        if (link.hasAttribute("aria-current")) return undefined;
        link.setAttribute("aria-current", "location");
        const list = link.closest("nav");
        if (list.scrollWidth > list.clientWidth) list.scrollLeft = link.offsetLeft - list.clientWidth / 3;
        return undefined;
      });
    };
    let waiting = false;
    addEventListener(
      "scroll",
      () => {
        if (waiting) return;
        waiting = true;
        requestAnimationFrame(() => {
          waiting = false;
          mark();
        });
      },
      { passive: true },
    );
    mark();
  };

  const startCopying = () => {
    for (const button of document.querySelectorAll("[data-copy]")) {
      const words = button.textContent;
      const said = (text) => {
        button.textContent = text;
        setTimeout(() => {
          button.textContent = words;
        }, 1800);
      };
      button.hidden = false;
      button.addEventListener("click", async () => {
        const source = document.getElementById(button.dataset.copy);
        try {
          await navigator.clipboard.writeText(source.textContent);
          said("Copied");
        } catch {
          const range = document.createRange();
          range.selectNodeContents(source);
          getSelection().removeAllRanges();
          getSelection().addRange(range);
          said("Selected");
        }
      });
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    startTheme();
    startContents();
    startCopying();
  });
})();
