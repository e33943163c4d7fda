"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];

// ---- the table of cases

function sortBy(header) {
  const row = header.parentElement, table = header.closest("table"), body = table.tBodies[0];
  const column = [...row.cells].indexOf(header);
  // Numbers are looked at from the greatest down first, names from A.
  const text = header.classList.contains("text");
  const falling = header.ariaSort ? header.ariaSort === "ascending" : !text;
  for (const cell of row.cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const value = (line) => line.cells[column].dataset.value;
  const compare = text ? (a, b) => a.localeCompare(b, "en", { numeric: true }) : (a, b) => a - b;
  const lines = [...body.rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is not known comes last either way
    return falling ? -compare(x, y) : compare(x, y);
  });
  body.append(...lines);
}

all("th button").forEach((button) => button.addEventListener("click", () => sortBy(button.parentElement)));
all("button[data-case]").forEach((button) => button.addEventListener("click", () => {
  choose(Number(button.dataset.case));
  byId("viewer").scrollIntoView({ behavior: "smooth" });
}));

// ---- volumes: bytes, X fastest, then Y, then Z (see monai_vmat/reports/volume_pack.py)

async function decode({ data: text, delta }, [nx, ny]) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const codes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (delta) {
    for (let i = 0; i < codes.length; i++) if (i % (nx * ny) >= nx) codes[i] += codes[i - nx];
    for (let i = 0; i < codes.length; i++) if (i % nx) codes[i] += codes[i - 1];
  }
  return codes;
}

async function decodeCase(packed) {
  const names = Object.keys(packed.volumes);
  const codes = await Promise.all([...names.map((n) => packed.volumes[n]), ...packed.masks].map((v) => decode(v, packed.shape)));
  return { ...packed, codes: Object.fromEntries(names.map((n, i) => [n, codes[i]])), bits: codes.slice(names.length) };
}

// ---- three planes, hung as radiologists do: the patient's left on the right-hand side, anterior or superior on top

const PLANES = {
  axial: { fixed: 2, across: 0, along: 1, up: false, letters: "RLAP" },
  coronal: { fixed: 1, across: 0, along: 2, up: true, letters: "RLSI" },
  sagittal: { fixed: 0, across: 1, along: 2, up: true, letters: "APSI" },
};
const PIXELS = 720; // of the canvas that is widest or highest
const WASH = 0.6;

const view = { scan: null, at: [0, 0, 0], layer: "reference" };

const colours = Object.fromEntries(Object.entries(data.colours).map(([name, text]) =>
  [name, Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));

const value = (name, i) => view.scan.volumes[name].low + view.scan.codes[name][i] * view.scan.volumes[name].step;

// What each layer shows of voxel i: a number, or null where the CT alone is to be seen; its colours and their ends.
const LAYERS = {
  ct: { label: "CT number [HU]", colours: null, ends: () => data.ct_window, value: () => null },
  reference: { label: "Reference dose [Gy]", colours: "dose", ends: () => [0, view.scan.dose_top], value: (i) => dose(value("reference", i)) },
  prediction: { label: "Predicted dose [Gy]", colours: "dose", ends: () => [0, view.scan.dose_top], value: (i) => dose(predicted(i)) },
  difference: {
    label: "Predicted \u2212 reference [Gy]", colours: "difference",
    ends: () => [-view.scan.difference_limit, view.scan.difference_limit],
    value: (i) => { const d = value("difference", i); return Math.abs(d) < 0.05 * view.scan.difference_limit ? null : d; },
  },
  gamma: {
    label: "Gamma 3 %/3 mm (below 1 passes)", colours: "gamma", ends: () => [0, 2],
    value: (i) => (view.scan.codes.gamma[i] ? value("gamma", i) - view.scan.volumes.gamma.step / 2 : null),
  },
};
const predicted = (i) => Math.max(0, value("reference", i) + value("difference", i));
const dose = (gy) => (gy < data.shown_from * view.scan.dose_top ? null : gy);

const shown = (name) => byId(`show-${data.structures.findIndex((s) => s.name === name)}`).checked;

function voxel(plane, i, j) {
  const point = [0, 0, 0];
  point[plane.fixed] = view.at[plane.fixed];
  point[plane.across] = i;
  point[plane.along] = plane.up ? view.scan.shape[plane.along] - 1 - j : j;
  return point;
}

const index = ([x, y, z]) => x + view.scan.shape[0] * (y + view.scan.shape[1] * z);

function draw(name) {
  const plane = PLANES[name], { scan } = view, layer = LAYERS[view.layer];
  const canvas = byId(name), context = canvas.getContext("2d");
  const [width, height] = [scan.shape[plane.across], scan.shape[plane.along]];
  const [low, high] = layer.ends(), table = colours[layer.colours];
  const slice = new ImageData(width, height);
  for (let j = 0, k = 0; j < height; j++) {
    for (let i = 0; i < width; i++, k += 4) {
      const at = index(voxel(plane, i, j));
      const [from, to] = data.ct_window;
      const grey = 255 * (value("ct", at) - from) / (to - from);
      const number = layer.value(at);
      const colour = number === null ? 0 : 3 * Math.max(0, Math.min(255, Math.floor(256 * (number - low) / (high - low))));
      for (let c = 0; c < 3; c++) slice.data[k + c] = number === null ? grey : (1 - WASH) * grey + WASH * table[colour + c];
      slice.data[k + 3] = 255;
    }
  }
  const small = Object.assign(document.createElement("canvas"), { width, height });
  small.getContext("2d").putImageData(slice, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const [sx, sy] = [canvas.width / width, canvas.height / height];
  scan.structures.forEach((structure, bit) => {
    if (shown(structure)) outline(context, plane, bit, sx, sy);
  });
  crossHair(context, plane, sx, sy);
  letters(context, plane.letters);
}

// Marching squares between voxel centres. Corners of a square: 1 top left, 2 top right, 4 bottom right, 8 bottom left;
// per pattern of corners inside, the middles of the sides (N, E, S, W) that lines join.
const SIDES = { N: [0.5, 0], E: [1, 0.5], S: [0.5, 1], W: [0, 0.5] };
const LINES = ["", "WN", "NE", "WE", "ES", "WNES", "NS", "WS", "WS", "NS", "NEWS", "ES", "WE", "NE", "WN", ""];

function outline(context, plane, bit, sx, sy) {
  const { scan } = view, bits = scan.bits[bit >> 3], flag = 1 << (bit & 7);
  const [width, height] = [scan.shape[plane.across], scan.shape[plane.along]];
  const inside = (i, j) => i >= 0 && j >= 0 && i < width && j < height && (bits[index(voxel(plane, i, j))] & flag) !== 0;
  context.beginPath();
  for (let j = -1; j < height; j++) {
    for (let i = -1; i < width; i++) {
      const sides = LINES[inside(i, j) + 2 * inside(i + 1, j) + 4 * inside(i + 1, j + 1) + 8 * inside(i, j + 1)];
      for (let k = 0; k < sides.length; k++) {
        const [dx, dy] = SIDES[sides[k]];
        const [x, y] = [(i + 0.5 + dx) * sx, (j + 0.5 + dy) * sy];
        if (k % 2) context.lineTo(x, y); else context.moveTo(x, y);
      }
    }
  }
  // The dark edge keeps every colour visible on every colour.
  for (const [colour, thickness] of [["rgba(0, 0, 0, 0.65)", 5], [data.structures.find((s) => s.name === scan.structures[bit]).color, 2.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = thickness;
    context.stroke();
  }
}

function crossHair(context, plane, sx, sy) {
  const { scan, at } = view;
  const x = (at[plane.across] + 0.5) * sx;
  const row = plane.up ? scan.shape[plane.along] - 1 - at[plane.along] : at[plane.along];
  const y = (row + 0.5) * sy, { width, height } = context.canvas, tick = 26;
  context.strokeStyle = "#fff";
  context.lineWidth = 2;
  context.beginPath();
  for (const [x0, y0, x1, y1] of [[x, 0, x, tick], [x, height - tick, x, height], [0, y, tick, y], [width - tick, y, width, y]]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
}

function letters(context, text) {
  const { width, height } = context.canvas, away = 46;
  context.font = "bold 24px sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  [[away, height / 2], [width - away, height / 2], [width / 2, away], [width / 2, height - away]].forEach(([x, y], k) => {
    context.fillStyle = "rgba(0, 0, 0, 0.55)";
    context.fillRect(x - 14, y - 16, 28, 32);
    context.fillStyle = "#fff";
    context.fillText(text[k], x, y);
  });
}

function drawAll() {
  if (!view.scan) return;
  Object.keys(PLANES).forEach(draw);
  const layer = LAYERS[view.layer], [low, high] = layer.ends(), bar = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) {
    const table = colours[layer.colours];
    for (let c = 0; c < 3; c++) bar.data[4 * i + c] = table ? table[3 * i + c] : i;
    bar.data[4 * i + 3] = 255;
  }
  byId("scale").getContext("2d").putImageData(bar, 0, 0);
  const digits = view.layer === "ct" || view.layer === "gamma" ? 0 : 1;
  byId("scale-label").textContent = layer.label;
  byId("scale-low").textContent = low.toFixed(digits).replace("-", "\u2212");
  byId("scale-high").textContent = high.toFixed(digits);
}

function moveTo(axis, slice) {
  view.at[axis] = Math.max(0, Math.min(view.scan.shape[axis] - 1, slice));
  showSlices();
  drawAll();
}

function showSlices() {
  for (const [name, { fixed }] of Object.entries(PLANES)) {
    const slider = byId(`${name}-slice`), count = view.scan.shape[fixed];
    slider.max = count - 1;
    slider.value = view.at[fixed];
    byId(`${name}-number`).textContent =
      `slice ${view.at[fixed] + 1} of ${count}, index ${view.at[fixed] + view.scan.first[fixed]} of the case's grid`;
  }
}

function pointed(name, event) {
  const canvas = byId(name), plane = PLANES[name], box = canvas.getBoundingClientRect();
  const part = (offset, size, count) => Math.max(0, Math.min(count - 1, Math.floor(offset / size * count)));
  return voxel(plane, part(event.clientX - box.left, box.width, view.scan.shape[plane.across]),
    part(event.clientY - box.top, box.height, view.scan.shape[plane.along]));
}

function tell(point) {
  const i = index(point), [from, to] = data.ct_window, hu = value("ct", i), code = view.scan.codes.gamma[i];
  const step = view.scan.volumes.gamma.step;
  const ct = hu <= from ? `\u2264 ${from}` : hu >= to ? `\u2265 ${to}` : hu.toFixed(0);
  const gamma = !code ? "not evaluated" : code > 2 / step ? "2 or more" : `${((code - 1) * step).toFixed(2)} to ${(code * step).toFixed(2)}`;
  const inside = view.scan.structures.filter((_, bit) => view.scan.bits[bit >> 3][i] & (1 << (bit & 7)));
  byId("readout").textContent = `CT ${ct} HU \u00b7 reference ${value("reference", i).toFixed(1)} Gy \u00b7 predicted ` +
    `${predicted(i).toFixed(1)} Gy \u00b7 difference ${value("difference", i).toFixed(1)} Gy \u00b7 gamma ${gamma}` +
    (inside.length ? ` \u00b7 in ${inside.join(", ")}` : "");
}

for (const [name, plane] of Object.entries(PLANES)) {
  const canvas = byId(name);
  byId(`${name}-slice`).addEventListener("input", (event) => moveTo(plane.fixed, Number(event.target.value)));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    moveTo(plane.fixed, view.at[plane.fixed] - Math.sign(event.deltaY));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const last = view.scan.shape[plane.fixed] - 1, now = view.at[plane.fixed];
    const target = { ArrowUp: now + 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowLeft: now - 1, PageUp: now + 5, PageDown: now - 5,
      Home: 0, End: last }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    moveTo(plane.fixed, target);
  });
  canvas.addEventListener("pointermove", (event) => tell(pointed(name, event)));
  canvas.addEventListener("click", (event) => {
    view.at = pointed(name, event);
    showSlices();
    drawAll();
  });
}
all("input[name=layer]").forEach((input) => input.addEventListener("change", () => {
  view.layer = input.value;
  drawAll();
}));

// ---- dose-volume histogram

const AREA = { width: 880, height: 420, left: 52, right: 12, top: 10, bottom: 44 };

function element(parent, name, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, content] of Object.entries(attributes)) node.setAttribute(key, content);
  node.textContent = text;
  parent.append(node);
  return node;
}

function drawDvh({ step, curves }) {
  const count = Object.values(curves)[0]?.reference.length ?? 2, top = step * (count - 1);
  const x = (gy) => AREA.left + gy / top * (AREA.width - AREA.left - AREA.right);
  const y = (percent) => AREA.height - AREA.bottom - percent / 100 * (AREA.height - AREA.top - AREA.bottom);
  byId("dvh").replaceChildren();
  const svg = element(byId("dvh"), "svg", { viewBox: `0 0 ${AREA.width} ${AREA.height}`, role: "img", "aria-label": "Dose-volume histogram" });
  for (let gy = 0; gy <= top; gy += 10) {
    element(svg, "path", { class: "grid", d: `M${x(gy)} ${y(0)}V${y(100)}` });
    element(svg, "text", { x: x(gy), y: y(0) + 16, "text-anchor": "middle" }, gy);
  }
  for (let percent = 0; percent <= 100; percent += 20) {
    element(svg, "path", { class: "grid", d: `M${x(0)} ${y(percent)}H${x(top)}` });
    element(svg, "text", { x: x(0) - 6, y: y(percent) + 4, "text-anchor": "end" }, percent);
  }
  element(svg, "text", { x: (x(0) + x(top)) / 2, y: AREA.height - 8, "text-anchor": "middle" }, "Dose [Gy]");
  element(svg, "text", { transform: `translate(13 ${(y(0) + y(100)) / 2}) rotate(-90)`, "text-anchor": "middle" }, "Volume [%]");
  for (const { name, color } of data.structures.filter((s) => s.name in curves)) {
    const group = element(svg, "g", { "data-structure": name });
    for (const kind of ["reference", "predicted"]) {
      const d = curves[name][kind].map((percent, k) => `${k ? "L" : "M"}${x(k * step).toFixed(1)} ${y(percent).toFixed(1)}`).join("");
      element(group, "path", { class: `edge ${kind}`, d });
      element(group, "path", { class: `curve ${kind}`, d, stroke: color });
    }
  }
  const cursor = element(svg, "path", { class: "cursor", d: "" });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), gy = ((event.clientX - box.left) / box.width * AREA.width - AREA.left) * top / (x(top) - x(0));
    const k = Math.max(0, Math.min(count - 1, Math.round(gy / step)));
    cursor.setAttribute("d", `M${x(k * step)} ${y(0)}V${y(100)}`);
    const values = Object.entries(curves).filter(([name]) => shown(name)).map(([name, { reference, predicted }]) =>
      `${name} ${predicted[k].toFixed(1)} (${reference[k].toFixed(1)}) %`);
    byId("dvh-readout").textContent = `At least ${(k * step).toFixed(1)} Gy, predicted (reference): ${values.join(" \u00b7 ")}`;
  });
  hideCurves();
}

function hideCurves() {
  all("#dvh g[data-structure]").forEach((group) => group.classList.toggle("hidden", !shown(group.dataset.structure)));
}

function structuresChanged() {
  hideCurves();
  drawAll();
}

all("#structures input").forEach((input) => input.addEventListener("change", structuresChanged));
all("#structures button").forEach((button) => button.addEventListener("click", () => {
  all("#structures input").forEach((input) => { input.checked = Boolean(button.dataset.all); });
  structuresChanged();
}));

// ---- one case

async function choose(number) {
  const chosen = data.cases[number], images = byId("images");
  byId("case").value = number;
  byId("case-name").textContent = chosen.case_id;
  all(".case-detail").forEach((section) => { section.hidden = Number(section.dataset.case) !== number; });
  all("#cases tbody tr").forEach((row) => row.classList.toggle("chosen", row.querySelector("button").dataset.case === String(number)));
  byId("not-embedded").hidden = Boolean(chosen.scan);
  images.hidden = !chosen.scan || !view.scan;
  if (!chosen.scan) return;
  if (!("DecompressionStream" in window)) {
    byId("not-embedded").textContent = "This browser is too old to show images and DVH; those of 2023 and later can.";
    byId("not-embedded").hidden = false;
    return;
  }
  images.setAttribute("aria-busy", "true");
  const scan = await decodeCase(chosen.scan);
  if (Number(byId("case").value) !== number) return; // another one was chosen meanwhile
  view.scan = scan;
  view.at = [...scan.start];
  const extent = scan.shape.map((n, axis) => n * scan.spacing[axis]), scale = PIXELS / Math.max(...extent);
  for (const [name, plane] of Object.entries(PLANES)) {
    const canvas = byId(name);
    [canvas.width, canvas.height] = [plane.across, plane.along].map((axis) => Math.round(extent[axis] * scale));
    canvas.parentElement.style.flex = `${extent[plane.across]} 1 0`; // one scale in mm for all three
  }
  data.structures.forEach(({ name }, k) => {
    const absent = !scan.structures.includes(name);
    byId(`show-${k}`).disabled = absent;
    byId(`show-${k}`).parentElement.classList.toggle("absent", absent);
  });
  showSlices();
  drawAll();
  drawDvh(chosen.dvh);
  images.hidden = false;
  images.setAttribute("aria-busy", "false");
}

byId("case").addEventListener("change", (event) => choose(Number(event.target.value)));
choose(0);
