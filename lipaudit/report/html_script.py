"""The script of HTML reports: the theme button, sorting, filtering, values under the pointer.

Without it the page says the same. It reads only what the page holds, writes text as text, and
asks nobody anything.
"""

SCRIPT = """\
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // The theme: as the system has it, until somebody chooses.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  label();

  // Tables: sorted by any column, rows of equal keys in the order of the file.
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) {
      return x < y ? -1 : x > y ? 1 : 0;
    }
    return a.localeCompare(b, "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.data")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.firstElementChild.addEventListener("click", () => {
        const key = (row) => row.cells[column].dataset.key;
        const numeric = original.some((row) => row.cells[column].classList.contains("number"));
        const before = head.getAttribute("aria-sort");
        // Numbers: largest first; a second click turns it round.
        const order = before === "none" ? (numeric ? "descending" : "ascending")
          : before === "ascending" ? "descending" : "ascending";
        const sign = order === "ascending" ? 1 : -1;
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", order);
        body.append(...[...original].sort((a, b) => sign * compare(key(a), key(b))));
      });
    });
  }

  // Filters: by a part of any cell's text that is a name, and by kind.
  for (const form of document.querySelectorAll("form.filter")) {
    const rows = [...document.getElementById(form.dataset.for).tBodies[0].rows];
    const names = rows.map((row) => row.querySelector(".name").textContent.toLowerCase());
    const [box] = form.getElementsByTagName("input");
    const [choice] = form.getElementsByTagName("select");
    const [out] = form.getElementsByTagName("output");
    const apply = () => {
      const part = box.value.trim().toLowerCase(), kind = choice.value;
      let shown = 0;
      rows.forEach((row, at) => {
        row.hidden = !names[at].includes(part) || (kind !== "" && row.dataset.kind !== kind);
        shown += row.hidden ? 0 : 1;
      });
      out.textContent = `${shown} of ${rows.length}`;
    };
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  // Curves: the nearest point under the pointer says its numbers, and its curve stands out.
  const tip = document.getElementById("tip");
  const say = (text, event) => {
    tip.textContent = text;
    tip.hidden = false;
    const room = tip.getBoundingClientRect();
    const left = event.clientX + 14, top = event.clientY + 14;
    tip.style.left = `${Math.max(4, Math.min(left, innerWidth - room.width - 8))}px`;
    tip.style.top = `${top + room.height > innerHeight ? top - room.height - 28 : top}px`;
  };
  const light = (group, at) => {
    for (const svg of group.querySelectorAll("svg[data-plot]")) {
      svg.classList.toggle("dimmed", at !== null);
      [...svg.querySelectorAll("[data-curve]")].forEach((curve) => {
        curve.classList.toggle("lit", Number(curve.dataset.curve) === at);
      });
    }
  };
  const VIEWS = {
    values: (rank, value) => [rank, value],
    ratios: (rank, value, curve) => [rank, value / (curve.values[0] || 1)],
    shares: (rank, value, curve) => [rank / curve.count, value / (curve.values[0] || 1)],
  };
  const placed = (text) => {
    const [low, high, isLog] = text.split(" ").map(Number);
    const f = isLog ? (v) => Math.log(Math.max(v, 1e-300)) : (v) => v;
    return (v) => Math.min(1, Math.max(0, (f(v) - f(low)) / (f(high) - f(low))));
  };
  // What the browser would show after a while is said at once, and not twice.
  for (const row of document.querySelectorAll(".chart g.row")) {
    const title = row.querySelector("title");
    if (title === null) continue;
    const text = title.textContent;
    title.remove();
    row.addEventListener("pointermove", (event) => say(text, event));
    row.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
  for (const group of document.querySelectorAll("[data-curves]")) {
    for (const title of group.querySelectorAll("[data-curve] > title")) title.remove();
    const curves = JSON.parse(document.getElementById(group.dataset.curves).textContent);
    group.querySelectorAll(".key li").forEach((entry, at) => {
      entry.addEventListener("pointerenter", () => light(group, at));
      entry.addEventListener("pointerleave", () => light(group, null));
    });
    for (const svg of group.querySelectorAll("svg[data-plot]")) {
      const [left, top, width, height] = svg.dataset.plot.split(" ").map(Number);
      const x = placed(svg.dataset.x), y = placed(svg.dataset.y), view = VIEWS[svg.dataset.view];
      const spots = curves.flatMap((curve, at) => curve.values.map((value, index) => {
        const [a, b] = view(curve.ranks[index], value, curve);
        return [left + x(a) * width, top + (1 - y(b)) * height, at, index];
      }));
      const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      ring.setAttribute("class", "spot");
      ring.setAttribute("r", "4");
      const leave = () => { tip.hidden = true; ring.remove(); light(group, null); };
      svg.addEventListener("pointerleave", leave);
      svg.addEventListener("pointermove", (event) => {
        const mouse = new DOMPoint(event.clientX, event.clientY)
          .matrixTransform(svg.getScreenCTM().inverse());
        let best = null, least = 40 * 40;
        for (const spot of spots) {
          const far = (spot[0] - mouse.x) ** 2 + (spot[1] - mouse.y) ** 2;
          if (far < least) { least = far; best = spot; }
        }
        if (best === null) { leave(); return; }
        const curve = curves[best[2]], rank = curve.ranks[best[3]], value = curve.values[best[3]];
        ring.setAttribute("cx", best[0]);
        ring.setAttribute("cy", best[1]);
        svg.append(ring);
        light(group, best[2]);
        const ratio = value / (curve.values[0] || 1);
        say(`${curve.name}\\n\\u03c3 = ${Number(value.toPrecision(6))} at rank `
          + `${rank.toLocaleString("en")} of ${curve.count.toLocaleString("en")}\\n`
          + `${Number(ratio.toPrecision(4))} of the largest`, event);
      });
    }
  }
})();
"""
