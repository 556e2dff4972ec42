// Zoom, exact values and the scale of the plots. Without this script the page is complete.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const SIZE = 1000;
  const whole = [page.first, Math.max(page.last, page.first + 1)];
  let view = whole;
  const plots = [];

  const number = (v) => {
    if (v === 0) return "0";
    if (Math.abs(v) >= 1000 && Math.abs(v) < 1e7) return Math.round(v).toLocaleString("en");
    return String(Number(v.toPrecision(4)));
  };
  const exact = (v) => String(Number(v.toPrecision(7)));
  const across = (step) => ((step - view[0]) / (view[1] - view[0])) * SIZE;

  // Index of the first entry that is not below the value.
  const find = (sorted, value) => {
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < value) low = middle + 1; else high = middle;
    }
    return low;
  };

  const ticks = (low, high, isLog, count = 4) => {
    const found = [];
    if (isLog) {
      const first = Math.floor(Math.log10(low));
      const last = Math.ceil(Math.log10(high));
      const every = Math.max(1, Math.floor((last - first + 1) / 5));
      for (let d = first; d <= last; d += every)
        for (const lead of last - first < 3 ? [1, 2, 5] : [1]) found.push(lead * 10 ** d);
      const inside = found.filter((v) => v >= low && v <= high);
      if (inside.length > 1) return inside;
      found.length = 0;
    }
    const raw = (high - low) / count;
    const unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((size) => size * unit).find((size) => size >= raw);
    for (let i = Math.ceil(low / step); i <= Math.floor(high / step); i++) found.push(i * step);
    return found;
  };

  // The points in view, and one beyond on either side, so that the line goes on.
  const inView = (steps) => [
    Math.max(0, find(steps, view[0]) - 1),
    Math.min(steps.length, find(steps, view[1] + 1) + 1),
  ];

  const rangeOf = (plot) => {
    let low = Infinity;
    let high = -Infinity;
    for (const [steps, values] of [[plot.s, plot.v], plot.d || [[], []]])
      for (let i = find(steps, view[0]); i < steps.length && steps[i] <= view[1]; i++) {
        if (plot.log && values[i] <= 0) continue;
        low = Math.min(low, values[i]);
        high = Math.max(high, values[i]);
      }
    if (low > high) return null;
    if (plot.mode === "fitted" && view === whole) return plot.given;
    if (plot.log) {
      const factor = Math.max((high / low) ** 0.05, 1.01);
      return [low / factor, high * factor];
    }
    const room = 0.05 * (high - low) || 0.1 * Math.abs(high) || 1;
    return [low - room, high + room];
  };

  const lineOf = (plot, [steps, values], isDots) => {
    const [begin, end] = inView(steps);
    const parts = [];
    for (let i = begin; i < end; i++) {
      if (plot.log && values[i] <= 0) continue;
      const at = `${across(steps[i]).toFixed(1)} ${Math.max(-SIZE, Math.min(2 * SIZE, plot.down(values[i]))).toFixed(0)}`;
      parts.push(isDots ? `M${at}h0` : at);
    }
    return isDots ? parts.join("") : parts.length ? "M" + parts.join("L") : "";
  };

  const label = (box, side, places, texts) => {
    box.replaceChildren(...places.map((place, i) => {
      const span = document.createElement("span");
      span.style[side] = `${place / 10}%`;
      span.textContent = texts[i];
      return span;
    }));
  };

  const moveMarks = (figure) => {
    for (const shape of figure.querySelectorAll("svg [data-a]")) {
      const a = across(+shape.dataset.a);
      if (shape.tagName === "line") {
        shape.setAttribute("x1", a);
        shape.setAttribute("x2", a);
      } else {
        shape.setAttribute("x", a);
        shape.setAttribute("width", Math.max(1, across(+shape.dataset.b) - a));
      }
    }
    for (const link of figure.querySelectorAll(".lane [data-a]")) {
      const a = across(+link.dataset.a);
      link.style.left = `${a / 10}%`;
      link.hidden = a < 0 || a > SIZE;
    }
    const skips = figure.querySelector("svg .skips");
    if (skips) skips.setAttribute("d", page.skips.map((s) => `M${across(s).toFixed(1)} 940v60`).join(""));
    const steps = ticks(view[0], view[1], false, 8).filter(Number.isInteger);
    const below = figure.querySelector(".x");
    label(below, "left", steps.map(across), steps.map((s) => s.toLocaleString("en")));
    if (steps.length && across(steps[steps.length - 1]) > 0.97 * SIZE) below.lastChild.className = "end";
  };

  const draw = (plot) => {
    moveMarks(plot.figure);
    const scale = plot.figure.querySelector('[data-do="scale"]');
    const modes = plot.modes;
    scale.textContent = `${modes[(modes.indexOf(plot.mode) + 1) % modes.length]} scale`;
    scale.hidden = modes.length < 2;
    plot.log = plot.mode === "log";
    plot.figure.querySelector('[data-do="whole"]').hidden = view === whole;
    const range = rangeOf(plot);
    if (range === null) return;
    const place = plot.log ? Math.log10 : (v) => v;
    const [low, high] = range.map(place);
    plot.down = (v) => SIZE - ((place(v) - low) / (high - low)) * SIZE;
    const values = ticks(range[0], range[1], plot.log);
    label(plot.figure.querySelector(".y"), "bottom", values.map((v) => SIZE - plot.down(v)), values.map(number));
    plot.figure.querySelector(".grid").innerHTML =
      values.map((v) => `<path d="M0 ${plot.down(v).toFixed(0)}H${SIZE}"/>`).join("");
    const set = (name, d) => {
      const path = plot.figure.querySelector(`svg .${name}`);
      if (path) path.setAttribute("d", d);
    };
    set("curve", lineOf(plot, [plot.s, plot.v], false));
    if (plot.m) set("smooth", lineOf(plot, plot.m, false));
    if (plot.b) set("bound", lineOf(plot, plot.b, false));
    set("dots", lineOf(plot, plot.d || [plot.s, plot.v], true));
    const over = plot.s.filter((s, i) => plot.v[i] > range[1] && s >= view[0] && s <= view[1]);
    set("over", over.map((s) => `M${across(s).toFixed(1)} 0v45`).join(""));
    set("broken", (plot.n || []).map((s) => `M${across(s).toFixed(1)} 0v60`).join(""));
  };

  const drawAll = () => {
    for (const plot of plots) draw(plot);
    for (const heat of document.querySelectorAll(".heat")) {
      moveMarks(heat);
      const known = page.heats[heat.id.slice(5)];
      const picture = heat.querySelector("img");
      const left = across(known.first);
      picture.style.left = `${left / 10}%`;
      picture.style.width = `${(across(known.first + known.columns * known.width) - left) / 10}%`;
    }
  };

  const zoom = (first, last) => {
    view = last - first < 2 ? whole : [Math.round(first), Math.round(last)];
    drawAll();
  };

  const stepAt = (event, frame) => {
    const box = frame.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return view[0] + share * (view[1] - view[0]);
  };

  const tell = (cross, step, text) => {
    cross.hidden = false;
    cross.style.left = `${across(step) / 10}%`;
    cross.classList.toggle("flip", across(step) > SIZE / 2);
    cross.replaceChildren(document.createElement("span"));
    cross.firstChild.textContent = text;
  };

  const nearest = ([steps, values], step) => {
    const i = find(steps, step);
    const j = i > 0 && (i === steps.length || step - steps[i - 1] < steps[i] - step) ? i - 1 : i;
    return j < steps.length ? [steps[j], values[j]] : null;
  };

  const hover = (plot, step) => {
    const found = nearest([plot.s, plot.v], step);
    if (found === null) return;
    const lines = [`step ${found[0].toLocaleString("en")}   ${exact(found[1])}`];
    const beside = plot.d && nearest(plot.d, found[0]);
    if (beside) lines.push(`validation ${exact(beside[1])} at ${beside[0].toLocaleString("en")}`);
    if (plot.b && plot.b[0].length) {
      const i = find(plot.b[0], found[0] + 1) - 1;
      if (i >= 0) lines.push(`bound ${exact(plot.b[1][i])}`);
    }
    tell(plot.figure.querySelector(".cross"), found[0], lines.join("\n"));
  };

  const listen = (figure, onHover) => {
    const frame = figure.querySelector(".frame");
    const svg = frame.querySelector("svg");
    const cross = frame.querySelector(".cross");
    let from = null;
    let band = null;
    frame.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      from = stepAt(event, frame);
      if (event.pointerType === "mouse") frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      const step = stepAt(event, frame);
      onHover(step, event);
      if (from === null) return;
      if (band === null) {
        band = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        band.setAttribute("class", "drag");
        band.setAttribute("height", SIZE);
        svg.append(band);
      }
      const [a, b] = [across(from), across(step)].sort((p, q) => p - q);
      band.setAttribute("x", a);
      band.setAttribute("width", b - a);
    });
    const end = (event) => {
      if (band !== null) band.remove();
      const [a, b] = [from, stepAt(event, frame)].sort((p, q) => p - q);
      if (event.type === "pointerup" && from !== null && across(b) - across(a) > 15) zoom(a, b);
      from = band = null;
    };
    frame.addEventListener("pointerup", end);
    frame.addEventListener("pointercancel", end);
    frame.addEventListener("pointerleave", () => { cross.hidden = true; });
    frame.addEventListener("dblclick", () => { view = whole; drawAll(); });
  };

  for (const figure of document.querySelectorAll(".plot")) {
    const plot = { figure, down: null, ...page.panels[figure.id] };
    plot.given = [+figure.dataset.low, +figure.dataset.high];
    plot.modes = ["linear"];
    if (plot.v.some((v) => v > 0)) plot.modes.push("log");
    if (!("log" in figure.dataset) && plot.v.some((v) => v > plot.given[1])) plot.modes.push("fitted");
    plot.mode = "log" in figure.dataset ? "log" : plot.modes.includes("fitted") ? "fitted" : "linear";
    plots.push(plot);
    figure.querySelector(".tools").hidden = false;
    figure.querySelector('[data-do="scale"]').addEventListener("click", () => {
      plot.mode = plot.modes[(plot.modes.indexOf(plot.mode) + 1) % plot.modes.length];
      draw(plot);
    });
    figure.querySelector('[data-do="whole"]').addEventListener("click", () => { view = whole; drawAll(); });
    listen(figure, (step) => hover(plot, step));
  }

  for (const figure of document.querySelectorAll(".heat")) {
    const known = page.heats[figure.id.slice(5)];
    const levels = atob(known.levels);
    const frame = figure.querySelector(".frame");
    listen(figure, (step, event) => {
      const box = frame.getBoundingClientRect();
      const share = Math.min(0.9999, Math.max(0, (event.clientY - box.top) / box.height));
      const row = Math.floor(share * known.names.length);
      const column = Math.floor((step - known.first) / known.width);
      if (column < 0 || column >= known.columns) return;
      const level = levels.charCodeAt(row * known.columns + column);
      const part = Math.min(level, 253) / 253;
      const value = known.log ? known.low * (known.high / known.low) ** part
        : known.low + part * (known.high - known.low);
      const said = level === 255 ? "not measured" : level === 254 ? "NaN or Inf" : `about ${number(value)}`;
      const begin = known.first + column * known.width;
      const cross = frame.querySelector(".cross");
      tell(cross, step, `${known.names[row]}\nstep ${begin.toLocaleString("en")}   ${said}`);
      cross.firstChild.style.top = share > 0.7 ? "auto" : `${share * 100}%`;
      cross.firstChild.style.bottom = share > 0.7 ? "8%" : "auto";
    });
  }

  drawAll();
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details.print")) folded.open = true;
  });
  for (const hint of document.querySelectorAll(".screen")) hint.hidden = false;
})();
