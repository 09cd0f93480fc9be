"use strict";
// Ramps that colour-blind people read: places along them are evidence, 0.5 is the threshold.
const RAMPS = {
  cividis: [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]],
  inferno: [[0, 0, 4], [27, 12, 65], [74, 12, 107], [120, 28, 109], [165, 44, 96], [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164]],
};

function colour(ramp, share) {
  const stops = RAMPS[ramp], place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2), part = place - low;
  return stops[low].map((value, n) => Math.round(value + (stops[low + 1][n] - value) * part));
}

// Where a level (0..1 of the run's scale) lies on the ramp: the threshold always in its middle.
function evidence(level, anchor) {
  if (anchor === null) return level;
  return level < anchor ? 0.5 * level / Math.max(anchor, 1e-6) : 0.5 + 0.5 * (level - anchor) / Math.max(1 - anchor, 1e-6);
}

function table(ramp, anchor) {
  return Array.from({ length: 256 }, (_, n) => {
    const share = evidence(n / 255, anchor);
    return [...colour(ramp, share), Math.min(Math.max((share - 0.35) / 0.2, 0), 1)];
  });
}

function edges(inside, width, height) {
  const found = [];
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const here = y * width + x;
    if (!inside(here)) continue;
    if ((x > 0 && !inside(here - 1)) || (x < width - 1 && !inside(here + 1)) || (y > 0 && !inside(here - width)) || (y < height - 1 && !inside(here + width))) found.push(here);
  }
  return found;
}

function planesOf(picture) {
  if (picture.planes) return picture.planes;
  picture.planes = new Promise((done) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = picture.width; canvas.height = picture.height;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      done(context.getImageData(0, 0, picture.width, picture.height).data);
    };
    image.src = picture.map;
  });
  return picture.planes;
}

async function paint(canvas, picture, look, layers) {
  const planes = await planesOf(picture), { width, height } = picture, colours = look.colours;
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d"), out = context.createImageData(width, height);
  const put = (place, [red, green, blue], alpha) => out.data.set([red, green, blue, alpha], 4 * place);
  if (layers.heat) for (let place = 0; place < width * height; place++) {
    const [red, green, blue, alpha] = colours[planes[4 * place]];
    put(place, [red, green, blue], layers.solid ? 255 : Math.round(255 * alpha * look.opacity));
  }
  if (layers.contour && look.anchor !== null) for (const place of edges((n) => planes[4 * n] / 255 > look.anchor, width, height)) put(place, [255, 255, 255], 200);
  if (layers.truth) {
    const inside = (n) => planes[4 * n + 1] > 127, rim = edges(inside, width, height);
    for (const place of rim) for (const step of [-1, 1, -width, width]) if (place + step >= 0 && place + step < width * height && !inside(place + step)) put(place + step, [0, 0, 0], 230);
    for (const place of rim) put(place, [255, 255, 255], 255);
  }
  context.putImageData(out, 0, 0);
  canvas.dataset.painted = "1";
}

class Run {
  constructor(section) {
    this.section = section;
    this.data = JSON.parse(section.querySelector("script.data").textContent);
    this.histogram = section.querySelector("svg.histogram");
    if (!this.histogram) return;
    this.low = Number(this.histogram.dataset.low); this.high = Number(this.histogram.dataset.high);
    this.threshold = this.data.threshold ?? this.high;
    this.get = (name) => section.querySelector(name);
    this.get("input.threshold").addEventListener("input", (event) => this.move(this.low + (this.high - this.low) * event.target.value / 1000));
    this.get(".reset").addEventListener("click", () => this.move(this.data.threshold ?? this.high));
    this.get(".cheapest").addEventListener("click", () => this.move(this.cheapest()));
    for (const name of [".cost-miss", ".cost-alarm", ".prior"]) this.get(name).addEventListener("input", () => this.tell());
    if (this.data.gallery) this.hang();
    this.move(this.threshold);
  }

  counts(threshold) {
    const found = { hits: 0, misses: 0, alarms: 0, passes: 0 };
    for (const [score, label] of this.data.scores) {
      if (label === 1) found[score > threshold ? "hits" : "misses"]++;
      else if (label === 0) found[score > threshold ? "alarms" : "passes"]++;
    }
    return found;
  }

  // Expected cost of a part, at the asked share of defective parts.
  cost(threshold) {
    const { hits, misses, alarms, passes } = this.counts(threshold);
    const number = (name) => Math.max(Number(this.get(name).value) || 0, 0);
    const prior = Math.min(number(".prior"), 100) / 100;
    const missed = hits + misses ? misses / (hits + misses) : 0, alarmed = alarms + passes ? alarms / (alarms + passes) : 0;
    return prior * missed * number(".cost-miss") + (1 - prior) * alarmed * number(".cost-alarm");
  }

  cheapest() {
    const values = [...new Set(this.data.scores.map(([score]) => score))].sort((a, b) => a - b);
    const between = values.slice(1).map((value, n) => (value + values[n]) / 2);
    const tried = [values[0] - 1e-9, ...between, values[values.length - 1]];
    return tried.reduce((best, value) => this.cost(value) < this.cost(best) - 1e-12 ? value : best);
  }

  move(threshold) {
    this.threshold = threshold;
    const share = Math.min(Math.max((threshold - this.low) / (this.high - this.low), 0), 1);
    const line = this.histogram.querySelector("line.threshold"), x = share * Number(this.histogram.dataset.wide);
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    this.get("input.threshold").value = Math.round(share * 1000);
    this.tell();
    if (this.data.gallery) this.arrange();
  }

  tell() {
    const found = this.counts(this.threshold);
    for (const [name, count] of Object.entries(found)) this.get("." + name).textContent = count;
    const defective = found.hits + found.misses, good = found.alarms + found.passes;
    this.get(".value").textContent = this.threshold.toPrecision(5);
    this.get(".typed").textContent = "score > " + this.threshold.toPrecision(8);
    const rate = good ? (100 * found.alarms / good).toFixed(1) : "-";
    this.get(".told").textContent = `misses ${found.misses} of ${defective}; ${rate} false alarms per 100 good parts`;
    this.get(".cost").textContent = `expected cost ${this.cost(this.threshold).toPrecision(3)} a part`;
  }

  hang() {
    const { low, high, threshold, pictures } = this.data.gallery;
    this.pictures = pictures;
    this.look = { anchor: threshold === null ? null : (threshold - low) / Math.max(high - low, 1e-12), opacity: 0.7 };
    this.list = this.get(".gallery"); this.items = [...this.list.children];
    const redraw = () => { this.recolour(); this.items.forEach((item) => item.dataset.seen && this.draw(item)); };
    this.get(".opacity").addEventListener("input", (event) => { this.look.opacity = event.target.value / 100; redraw(); });
    this.get(".ramp").addEventListener("change", redraw);
    for (const name of [".sort", ".show"]) this.get(name).addEventListener("change", () => this.arrange());
    this.items.forEach((item) => item.querySelector(".open").addEventListener("click", () => large.open(this, item)));
    this.recolour();
    const seen = new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (entry.isIntersecting && !entry.target.dataset.seen) { entry.target.dataset.seen = "1"; this.draw(entry.target); }
    }), { rootMargin: "300px" });
    this.items.forEach((item) => seen.observe(item));
  }

  recolour() {
    const ramp = this.get(".ramp").value, bar = this.get("canvas.bar"), context = bar.getContext("2d");
    this.look.colours = table(ramp, this.look.anchor);
    for (let x = 0; x < bar.width; x++) {
      context.fillStyle = `rgb(${colour(ramp, x / bar.width)})`;
      context.fillRect(x, 0, 1, bar.height);
    }
    context.fillStyle = "#fff"; context.fillRect(bar.width / 2 - 1, 0, 2, bar.height);
    const { low, high, threshold } = this.data.gallery, text = (value) => value.toPrecision(3);
    this.get(".bar-text").textContent = threshold === null ? `${text(low)} to ${text(high)}` : `${text(low)} | threshold of pixels ${text(threshold)} | ${text(high)}`;
  }

  draw(item) {
    const picture = this.pictures[item.dataset.place];
    paint(item.querySelector(".truth"), picture, this.look, { truth: true });
    paint(item.querySelector(".map"), picture, this.look, { heat: true, solid: true, contour: true });
    paint(item.querySelector(".over"), picture, this.look, { heat: true, contour: true });
  }

  kind(picture) {
    if (picture.label < 0) return "right";
    const called = picture.score > this.threshold;
    return called === (picture.label === 1) ? "right" : called ? "alarm" : "miss";
  }

  // Misses before false alarms, the worst of each first; then what is right, nearest to wrong.
  arrange() {
    const off = (picture) => Math.abs(picture.score - this.threshold), order = { miss: 0, alarm: 1, right: 2 };
    const keys = {
      error: (p) => [order[this.kind(p)], this.kind(p) === "right" ? off(p) : -off(p)],
      near: (p) => [off(p)], high: (p) => [-p.score], low: (p) => [p.score], name: (p) => [p.path],
    };
    const key = keys[this.get(".sort").value], shown = this.get(".show").value;
    const sorted = this.items.map((item) => [key(this.pictures[item.dataset.place]), item]);
    sorted.sort(([a], [b]) => { for (let n = 0; n < a.length; n++) if (a[n] !== b[n]) return a[n] < b[n] ? -1 : 1; return 0; });
    for (const [, item] of sorted) {
      const picture = this.pictures[item.dataset.place], kind = this.kind(picture);
      item.hidden = shown !== "all" && kind !== shown;
      item.classList.toggle("wrong", kind !== "right");
      item.querySelector(".verdict-of").textContent = picture.label < 0 ? "no label" : { miss: "missed", alarm: "false alarm", right: picture.label ? "found" : "good" }[kind];
      this.list.append(item);
    }
  }
}

const large = {
  dialog: document.getElementById("large"), heat: true, truth: true,
  open(run, item) { this.run = run; this.item = item; this.show(); if (!this.dialog.open) this.dialog.showModal(); },
  show() {
    const picture = this.run.pictures[this.item.dataset.place];
    this.dialog.querySelector("img").src = picture.image;
    this.dialog.querySelector("p").textContent = `${picture.path}, score ${picture.score.toPrecision(5)}, ${this.item.querySelector(".verdict-of").textContent}`;
    paint(this.dialog.querySelector("canvas"), picture, this.run.look, { heat: this.heat, contour: this.heat, truth: this.truth });
  },
  step(way) {
    const shown = [...this.run.list.children].filter((item) => !item.hidden);
    this.item = shown[(shown.indexOf(this.item) + way + shown.length) % shown.length];
    this.show();
  },
};
large.dialog.querySelector(".close").addEventListener("click", () => large.dialog.close());
document.addEventListener("keydown", (event) => {
  if (!large.dialog.open) return;
  const act = { ArrowLeft: () => large.step(-1), ArrowRight: () => large.step(1), " ": () => { large.heat = !large.heat; large.show(); }, g: () => { large.truth = !large.truth; large.show(); } }[event.key];
  if (act) { event.preventDefault(); act(); }
});

for (const sorted of document.querySelectorAll("table.sortable")) sorted.querySelectorAll("thead th").forEach((head, column) => head.addEventListener("click", () => {
  const up = head.getAttribute("aria-sort") === "descending", body = sorted.tBodies[0];
  const value = (row) => { const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent; return text !== "" && !isNaN(text) ? Number(text) : text; };
  sorted.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  [...body.rows].sort((a, b) => { const [x, y] = [value(a), value(b)]; return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1); }).forEach((row) => body.append(row));
}));

const compared = document.getElementById("compared");
if (compared) {
  const rows = [...compared.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
  const [left, right] = ["left", "right"].map((name) => document.getElementById(name));
  const show = () => {
    compared.tBodies[0].replaceChildren(...rows.map(([key, ...values]) => [key, values[left.value], values[right.value]]).filter(([, a, b]) => a !== b).map((cells) => {
      const row = document.createElement("tr");
      cells.forEach((text, n) => { const cell = document.createElement(n ? "td" : "th"); cell.textContent = text; row.append(cell); });
      return row;
    }));
  };
  left.addEventListener("change", show); right.addEventListener("change", show); show();
}

const runs = [...document.querySelectorAll("section.run")].map((section) => new Run(section));
