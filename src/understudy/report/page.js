// What a page of understudy does in a browser: tables sort, figures tell their values, cut tables say so.
// It asks nothing of any network and writes text alone: no string of a run is ever taken for markup.
"use strict";
(() => {
  const number = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));

  function sortBy(table, column, heading) {
    const goesDown = heading.getAttribute("aria-sort") !== "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", goesDown ? "descending" : "ascending");
    const body = table.tBodies[0];
    const lines = [...body.rows];
    const pinned = lines.filter((line) => line.classList.contains("teacher"));
    const others = lines.filter((line) => !line.classList.contains("teacher"));
    others.sort((a, b) => {
      const [x, y] = [a.cells[column], b.cells[column]];
      const [p, q] = [number(x), number(y)];
      if (Number.isNaN(p) && Number.isNaN(q)) {
        return (goesDown ? 1 : -1) * x.textContent.localeCompare(y.textContent, undefined, { numeric: true });
      }
      if (Number.isNaN(p)) return 1; // what was not measured stands last, whichever way
      if (Number.isNaN(q)) return -1;
      return goesDown ? q - p : p - q;
    });
    body.append(...pinned, ...others);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort";
      button.append(...heading.childNodes);
      const way = document.createElement("span");
      way.className = "way";
      button.insertBefore(way, button.querySelector("small"));
      heading.append(button);
      button.addEventListener("click", () => sortBy(table, column, heading));
    });
  }

  const scrolled = [...document.querySelectorAll(".scroll")];
  const measure = () => {
    for (const box of scrolled) box.classList.toggle("is-cut", box.scrollWidth > box.clientWidth + 1);
  };
  addEventListener("resize", measure);
  addEventListener("toggle", measure, true); // what was folded away had no width
  measure();

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const cross = document.createElement("div");
  cross.className = "cross";

  function line(left, right, color) {
    const row = document.createElement("div");
    const name = document.createElement("span");
    if (color) {
      const chip = document.createElement("i");
      chip.className = "chip";
      chip.style.background = color;
      name.append(chip);
    }
    name.append(left);
    row.append(name);
    if (right) row.append(Object.assign(document.createElement("b"), { textContent: right }));
    return row;
  }

  function nearest(points, distance) {
    let best = null;
    let least = Infinity;
    for (const point of points) {
      const far = distance(point);
      if (far < least) [best, least] = [point, far];
    }
    return [best, least];
  }

  function hide() {
    tip.hidden = true;
    cross.remove();
  }

  function show(event, lines) {
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
    const top = event.clientY + 16 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, top)}px`;
  }

  function look(plot, panels, event) {
    const svg = plot.querySelector("svg");
    const frame = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / frame.width;
    const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
    const panel = panels.find(({ box }) => x >= box[0] - 6 && x <= box[2] + 6 && y >= box[1] - 6 && y <= box[3] + 6);
    if (!panel) return hide();
    if (panel.by === "point") {
      const points = panel.series.flatMap((series) => series.points);
      const [found, far] = nearest(points, (point) => Math.hypot(point[0] - x, point[1] - y));
      cross.remove();
      return found && far < 40 ? show(event, [line(found[3])]) : hide();
    }
    const [at] = nearest(panel.series.flatMap((series) => series.points), (point) => Math.abs(point[0] - x));
    if (!at) return hide();
    const lines = panel.series.map((series) => {
      const [found, far] = nearest(series.points, (point) => Math.abs(point[0] - at[0]));
      return found && far < 4 ? [found[1], line(series.name, found[3], series.color)] : null;
    });
    const inOrder = lines.filter(Boolean).sort((a, b) => a[0] - b[0]).map((entry) => entry[1]);
    Object.assign(cross.style, {
      left: `${at[0] / scale}px`, top: `${panel.box[1] / scale}px`, height: `${(panel.box[3] - panel.box[1]) / scale}px`,
    });
    plot.append(cross);
    show(event, [line(`${panel.x} ${at[2]}`), ...inOrder]);
  }

  for (const plot of document.querySelectorAll(".plot[data-hover]")) {
    const panels = JSON.parse(plot.dataset.hover);
    plot.addEventListener("pointermove", (event) => look(plot, panels, event));
    plot.addEventListener("pointerdown", (event) => look(plot, panels, event));
    plot.addEventListener("pointerleave", hide);
  }
})();
