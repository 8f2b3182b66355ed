import { shown, tellApart } from "./names.js";

const facts = JSON.parse(document.getElementById("facts").textContent);
const { chunks, documents, layers, sources, strides } = facts;
/* Cross-attention looks at the text alone. Others look at text and prompt in one softmax. */
const cross = facts.injection === "cross";
const besides = facts.injection === "deep" ? "the rest of the prompt, and the answer" : "question and answer";
/* Whether pieces of chunks are read whole, or not at all. */
const pieced = strides.length === 1;
const $ = id => document.getElementById(id);

/* An element with attributes and children; texts become text nodes, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    /* A strict content security policy forbids attributes of style, but not styles set by a script. */
    if (name === "style") element.style.cssText = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const sum = list => list.reduce((a, b) => a + b, 0);
const mean = list => list.length ? sum(list) / list.length : 0;
const whole = n => n.toLocaleString("en-US");
const some = (n, name) => `${whole(n)} ${name}${n === 1 ? "" : "s"}`;
const percent = share => share === 0 ? "0\u00a0%" : share < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;
const digits = value => value === 0 ? "0" : Number(value.toPrecision(3)).toString();
const every = stride => stride === 0 ? "not read" : stride === 1 ? "every token" : `1 token in ${stride}`;
/* How much of a chunk was read. */
function readOf(chunk) {
  const size = chunk.tokens[1] - chunk.tokens[0];
  if (!chunk.kept) return "not read";
  if (chunk.kept === size) return "every token";
  const finest = chunk.pieces.some(piece => piece.stride > 1) ? `, finest: ${every(chunk.stride)}` : "";
  return `${whole(chunk.kept)} of ${some(size, "token")}${finest}`;
}
tellApart(documents.map(document => document.name));

/* The values by which chunks are coloured, sorted and described. */
const attention = chunks.map(chunk => mean(chunk.attention));
const score = chunks.map(chunk => chunk.score);  // null: the score leaves it out
const scored = score.filter(value => value !== null);
const rank = new Array(chunks.length);
[...score.keys()].sort((a, b) => (score[b] ?? -Infinity) - (score[a] ?? -Infinity)).forEach((chunk, place) => { rank[chunk] = place + 1; });
const cited = new Set();
for (const source of sources) for (let i = source.chunks[0]; i <= source.chunks[1]; i++) cited.add(i);
const kept = chunks.flatMap((chunk, i) => chunk.kept ? [i] : []);

/* Colours. The ramp is read from the style, so that it follows the light or dark scheme. */
let ramp, none, accent, ink;
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = name => style.getPropertyValue(name).trim();
  ramp = [0, 1, 2, 3, 4].map(i => colour(`--ramp-${i}`));
  [none, accent, ink] = [colour("--none"), colour("--accent"), colour("--text")];
}
function onRamp(share) {
  const place = Math.min(Math.max(share, 0), 1) * (ramp.length - 1), low = Math.min(Math.floor(place), ramp.length - 2);
  const [a, b] = [ramp[low], ramp[low + 1]].map(hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)));
  return `rgb(${a.map((from, i) => Math.round(from + (b[i] - from) * (place - low))).join(" ")})`;
}
function ofStride(stride) {
  return stride === 0 ? none : onRamp(strides.length < 2 ? 1 : strides.indexOf(stride) / (strides.length - 1));
}
const highest = { score: scored.length ? Math.max(...scored) : 0, attention: Math.max(...attention, 1e-12) };
const lowest = { score: scored.length ? Math.min(...scored) : 0, attention: 0 };
/* Values are transformed so that half of the chunks stay in the lowest part of the ramp, and outliers stand out. */
const bent = Object.fromEntries(Object.entries({ score: scored, attention: attention.filter(value => value > 0) }).map(([mode, values]) => {
  const middle = [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;
  const share = (middle - lowest[mode]) / (highest[mode] - lowest[mode]);
  return [mode, share > 0 && share < 1 ? Math.min(Math.max(Math.log(0.15) / Math.log(share), 0.3), 2) : 1];
}));
function scaled(mode, value) {
  return highest[mode] > lowest[mode] ? ((value - lowest[mode]) / (highest[mode] - lowest[mode])) ** bent[mode] : 0;
}
const colourOf = {
  stride: i => ofStride(chunks[i].stride),
  score: i => score[i] === null ? none : onRamp(scaled("score", score[i])),
  attention: i => attention[i] ? onRamp(scaled("attention", attention[i])) : none,
};
const meaning = {
  stride: pieced ? "Of which chunks pieces were read for this question." : "How finely each chunk was read for this question: the finest of its pieces.",
  score: `How much each chunk matters to the question, by ${facts.score}: the best are read first, within the budget.`,
  attention: "How much attention the model paid to each chunk while it wrote the answer, averaged over layers.",
};
const modes = { stride: pieced ? "Read" : "How finely read", score: "Score", attention: "Attention" };
let mode = "stride";

/* Bands of the map: one for each document, or one for all if there are many. */
const starts = documents.map(() => -1);
chunks.forEach((chunk, i) => { if (starts[chunk.document] < 0) starts[chunk.document] = i; });
const own = documents.flatMap((_, d) => starts[d] < 0 ? [] : [d]);
const together = own.length > 40;
const bands = (together ? [0] : own).map((d, i, list) => ({
  first: together ? 0 : starts[d],
  end: together || i + 1 === list.length ? chunks.length : starts[list[i + 1]],
  title: together ? some(documents.length, "document")
    : documents.slice(d, i + 1 === list.length ? undefined : list[i + 1]).map(document => shown(document.name)).join(" + "),
}));
const bandOf = chunk => bands.find(band => chunk < band.end);
let pitch = 12, columns = 60, pinned = 0, current = 0;

function buildBands() {
  for (const band of bands) {
    const count = band.end - band.first, tokens = sum(chunks.slice(band.first, band.end).map(c => c.tokens[1] - c.tokens[0]));
    band.canvas = make("canvas", { tabindex: 0, role: "slider", "aria-label": `Chunks of ${band.title}`, "aria-valuemin": band.first + 1, "aria-valuemax": band.end });
    band.cells = make("div", { class: "cells" }, band.canvas);
    const heading = make("h3", {}, band.title, make("span", {}, ` · ${some(count, "chunk")}, ${some(tokens, "token")}`));
    $("bands").append(make("div", { class: "band" }, heading, band.cells));
    const under = event => {
      const column = Math.floor(event.offsetX / pitch), row = Math.floor(event.offsetY / pitch);
      const chunk = band.first + row * columns + column;
      return column >= 0 && column < columns && row >= 0 && chunk < band.end ? chunk : null;
    };
    band.canvas.addEventListener("mousemove", event => { const i = under(event); if (i !== null) show(i); });
    band.canvas.addEventListener("mouseleave", () => show(pinned));
    band.canvas.addEventListener("click", event => { const i = under(event); if (i !== null) pin(i); });
    band.canvas.addEventListener("focus", () => { if (bandOf(current) !== band) show(band.first); });
    band.canvas.addEventListener("keydown", event => onKey(event));
  }
}
function onKey(event) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -10 * columns, PageDown: 10 * columns };
  const target = { Home: 0, End: chunks.length - 1 }[event.key] ?? (steps[event.key] ? current + steps[event.key] : null);
  if (event.key === "Enter" || event.key === " ") pin(current);
  else if (target === null) return;
  else {
    show(Math.min(Math.max(target, 0), chunks.length - 1));
    bandOf(current).canvas.focus({ preventScroll: true });
    reveal();
  }
  event.preventDefault();
}
function reveal() {
  const box = bandOf(current).cells.querySelector("i.cursor").getBoundingClientRect();
  if (box.top < 0 || box.bottom > innerHeight * 0.6) scrollBy({ top: box.top - innerHeight * 0.3 });
}

function drawBands() {
  const width = $("bands").clientWidth, narrow = width < 500;
  pitch = Math.round(Math.min(Math.max(Math.sqrt(width * 520 / chunks.length), narrow ? 6 : 8), 44));
  columns = Math.max(Math.floor(width / pitch), 1);
  const gap = pitch > 14 ? 2 : 1, density = devicePixelRatio || 1;
  for (const { canvas, first, end } of bands) {
    const rows = Math.ceil((end - first) / columns);
    canvas.width = Math.round(columns * pitch * density);
    canvas.height = Math.round(rows * pitch * density);
    canvas.style.width = `${columns * pitch}px`;
    canvas.style.height = `${rows * pitch}px`;
    const context = canvas.getContext("2d");
    context.scale(density, density);
    for (let i = first; i < end; i++) {
      const x = (i - first) % columns * pitch, y = Math.floor((i - first) / columns) * pitch;
      context.fillStyle = colourOf[mode](i);
      context.fillRect(x, y, pitch - gap, pitch - gap);
      if (together && starts[chunks[i].document] === i) {
        context.fillStyle = ink;
        context.fillRect(x, y, Math.max(2, pitch / 8), pitch - gap);
      }
      if (cited.has(i)) {
        context.strokeStyle = accent;
        context.lineWidth = pitch > 14 ? 3 : 2;
        context.strokeRect(x + context.lineWidth / 2, y + context.lineWidth / 2, pitch - gap - context.lineWidth, pitch - gap - context.lineWidth);
      }
    }
  }
  place("pin", pinned);
  place("cursor", current);
}
function place(kind, chunk) {
  const band = bandOf(chunk), at = chunk - band.first;
  const marker = document.querySelector(`#bands i.${kind}`) || make("i", { class: kind });
  marker.style.cssText = `left:${at % columns * pitch - 3}px;top:${Math.floor(at / columns) * pitch - 3}px;width:${pitch + 5}px;height:${pitch + 5}px`;
  if (marker.parentNode !== band.cells) band.cells.append(marker);
}
function drawLegend() {
  const key = (colour, text, ring = "") => make("span", { class: "key" }, make("span", { class: `swatch ${ring}`, style: `background:${colour}` }), text);
  const items = mode === "stride"
    ? [key(none, "not read"), ...strides.map(stride => key(ofStride(stride), pieced ? "read, in whole or in part" : every(stride)))]
    : [make("span", { class: "key" }, digits(lowest[mode]), make("span", { class: "gradient", style: `background:linear-gradient(90deg, ${[0, 1, 2, 3, 4].map(i => `${ramp[i]} ${100 * (i / 4) ** (1 / bent[mode])}%`).join(", ")})` }),
        mode === "score" ? digits(highest.score) : percent(highest.attention))];
  if (mode === "attention") items.unshift(key(none, "not read"));
  if (mode === "score" && scored.length < chunks.length) items.unshift(key(none, "left out by the score"));
  if (together) items.push(make("span", { class: "key" }, make("b", {}, "▏"), "a document begins"));
  $("reading").textContent = `${meaning[mode]} In reading order, line by line: touch or point at a cell, or go there by arrow keys, to see its text; click or press Enter to pin it.`;
  $("legend").replaceChildren(...items, key("transparent", "read for the answer", "ring"));
}

/* The chosen chunk. */
function where(chunk) {
  const first = documents[chunk.document], last = documents.findLast(d => d.tokens[0] < chunk.tokens[1]);
  const from = whole(chunk.characters[0] - first.characters[0]);
  if (first === last || !last) return [shown(first.name), `characters ${from}–${whole(chunk.characters[1] - first.characters[0])}`];
  return [`${shown(first.name)} to ${shown(last.name)}`, `from character ${from} to character ${whole(chunk.characters[1] - last.characters[0])}`];
}
function words(chunk, inside = piece => piece.stride === 1) {
  if (!chunk.pieces.some(piece => piece.text)) return [chunk.excerpt];
  return chunk.pieces.map(piece => inside(piece) ? make("mark", {}, piece.text) : piece.text);
}
/* A box of text without surrounding blanks, scrolled to its marked part. */
function textBox(...children) {
  const cut = (i, trim) => {
    if (typeof children[i] === "string") children[i] = trim(children[i]);
    else children[i].textContent = trim(children[i].textContent);
  };
  cut(0, text => text.trimStart());
  cut(children.length - 1, text => text.trimEnd());
  const box = make("div", { class: "words", tabindex: 0 }, ...children);
  requestAnimationFrame(() => {
    const mark = box.querySelector("mark");
    const line = parseFloat(getComputedStyle(box).lineHeight);
    if (mark) box.scrollTop = Math.floor((mark.getBoundingClientRect().top - box.getBoundingClientRect().top) / line - 2) * line;
  });
  return box;
}
function show(i) {
  current = i;
  place("cursor", i);
  const chunk = chunks[i], [name, characters] = where(chunk), size = chunk.tokens[1] - chunk.tokens[0];
  const rows = [
    ["Where", `${characters}`],
    ["Read", chunk.kept ? readOf(chunk) : `nothing of its ${some(size, "token")}`],
    ["Score", chunk.score === null ? `none: ${facts.score} leaves it out` : `${digits(chunk.score)}, number ${whole(rank[i])} of ${whole(chunks.length)}`],
    ["Attention", chunk.kept ? percent(attention[i]) : "none: it was not read"],
  ];
  const step = (label, target) => {
    const button = make("button", { type: "button" }, label);
    if (target === undefined) button.disabled = true;
    else button.addEventListener("click", () => { pin(target); reveal(); });
    return button;
  };
  const pieces = chunk.pieces.length ? chunk.pieces : [{ tokens: chunk.tokens, stride: chunk.stride }];
  const strip = pieces.map(piece => make("span", { style: `flex:${piece.tokens[1] - piece.tokens[0]};background:${ofStride(piece.stride)}`, title: every(piece.stride) }));
  const carried = chunk.pieces.some(piece => piece.text);
  $("detail").replaceChildren(
    make("div", { class: "head" }, make("h3", {}, `Chunk ${whole(i + 1)} · ${name}`), make("span", { class: "quiet" }, i === pinned ? "pinned" : "")),
    make("dl", {}, ...rows.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)])),
    make("div", { class: "strip", "aria-hidden": "true" }, ...strip),
    textBox(...words(chunk)),
    ...(carried ? [] : [make("p", { class: "quiet" }, "Only the beginning is in this page.")]),
    make("div", { class: "steps" }, step("← read before", kept.findLast(k => k < i)), step("read next →", kept.find(k => k > i))),
  );
  const canvas = bandOf(i).canvas;
  canvas.setAttribute("aria-valuenow", i + 1);
  canvas.setAttribute("aria-valuetext", `Chunk ${i + 1}, ${rows.map(row => row.join(" ")).join("; ")}`);
}
function pin(i) {
  pinned = i;
  place("pin", i);
  show(i);
}
function toMap(chunk) {
  const button = make("button", { type: "button" }, "Show in map");
  button.addEventListener("click", () => { pin(chunk); $("map-title").scrollIntoView(); reveal(); });
  return button;
}

/* The parts of the page that are drawn once. */
function drawFigures() {
  const full = sum(chunks.map(chunk => sum(chunk.pieces.filter(piece => piece.stride === 1).map(piece => piece.kept))));
  const far = mean(layers.map(layer => layer.memory)), found = mean(layers.map(layer => layer.sources));
  const figures = [
    ["Tokens in the text", whole(facts.tokens), `${some(documents.length, "document")}, ${some(chunks.length, "chunk")} of ${facts.chunk_size}`],
    ["Tokens read for this", whole(facts.kept), `${percent(facts.kept / facts.tokens)} of them; the budget is ${whole(facts.budget)}`],
    ["Of these in full detail", whole(full), "from passages of which every token was read"],
    ["Chunks read", whole(kept.length), kept.length === chunks.length ? pieced ? "all of them, in whole or in part" : "all of them, some more finely" : `${percent(kept.length / chunks.length)} of all; the others were left out`],
    ...(cross ? [] : [["Attention to the text", percent(far), `the rest went to ${besides}`]]),
    ["Attention to passages", percent(found), `mean over ${some(layers.length, "layer")}`],
  ];
  $("figures").append(...figures.map(([term, value, note]) => make("div", {}, make("dt", {}, term), make("dd", {}, value), make("dd", {}, note))));
  $("about").textContent = `Answered by ${facts.model} from ${some(facts.tokens, "token")}, of which ${whole(facts.kept)} were chosen by ${facts.score}.${facts.found === false ? " This may not be in the text: no part of it says much of the question." : ""}`;
}
function drawSources() {
  $("sources-note").textContent = sources.length
    ? `The best passages of those that were read in full. ${sources.some(source => source.answer) ? "" : "None of them contains the answer. "}Marked: the passage; around it, the rest of its chunks.`
    : "No passage was read in full within this budget.";
  $("sources").append(...sources.map(source => {
    const end = source.start + source.tokens[1] - source.tokens[0];
    const inside = piece => piece.tokens[0] >= source.start && piece.tokens[1] <= end;
    const text = chunks.slice(source.chunks[0], source.chunks[1] + 1).flatMap(chunk => words(chunk, inside));
    const characters = `characters ${whole(source.characters[0])}–${whole(source.characters[1])}`;
    const numbers = [...(source.place ? [source.place] : []), characters, `score ${digits(source.weight)}`, `attention ${percent(source.attention)}`, ...(source.answer ? ["the answer stands here"] : [])].map(text => text.replaceAll(" ", "\u00a0")).join(" · ");
    return make("li", {}, make("div", { class: "head" }, make("h3", {}, shown(source.document)), toMap(source.chunks[0])),
      make("p", { class: "quiet" }, numbers), textBox(...text));
  }));
}
function drawLayers() {
  const gates = layers.some(layer => layer.gate !== null);
  /* Of a deep model the last layer is always there. */
  const all = facts.injection === "deep" && layers.length === layers.at(-1).layer + 1;
  $("layers-note").textContent = [
    `Where ${cross ? "cross-attention" : "the model"} looked while ${cross ? "the model" : "it"} wrote the answer, averaged over heads and answer tokens.`,
    ...(gates ? ["The gate is the factor of its result."] : []),
    all ? "These are all layers, counted from 0." : `Layers are counted from 0; layers not listed see only ${besides}.`,
  ].join(" ");
  const kinds = [["passages above", "var(--ramp-4)"], ["the rest of what was read", "var(--ramp-1)"], ...(cross ? [] : [[besides, "var(--none)"]])];
  $("layers-legend").append(...kinds.map(([text, colour]) => make("span", { class: "key" }, make("span", { class: "swatch", style: `background:${colour}` }), text)));
  const head = ["Layer", "", ...(cross ? [] : ["Text"]), "Sources", ...(gates ? ["Gate"] : [])];
  const rows = layers.map(layer => make("tr", {},
    make("th", { scope: "row" }, `${layer.layer}`),
    make("td", { class: "bar" }, make("div", { class: "shares", "aria-hidden": "true" },
      make("span", { style: `width:${100 * layer.sources}%;background:${kinds[0][1]}` }),
      make("span", { style: `width:${100 * Math.max(layer.memory - layer.sources, 0)}%;background:${kinds[1][1]}` }))),
    ...[...(cross ? [] : [percent(layer.memory)]), percent(layer.sources), ...(gates ? [digits(layer.gate)] : [])].map(text => make("td", { class: "number" }, text))));
  $("layers").append(make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", { scope: "col", class: i > 1 ? "number" : "" }, text)))), make("tbody", {}, ...rows));
}
function drawTop(by) {
  const values = { score, attention }, order = [...chunks.keys()].sort((a, b) => (values[by][b] ?? -Infinity) - (values[by][a] ?? -Infinity) || a - b).slice(0, 25);
  const sorter = (name, label) => {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", () => { drawTop(name); document.querySelector("#top [aria-sort] button").focus(); });
    return make("th", name === by ? { scope: "col", class: "number", "aria-sort": "descending" } : { scope: "col", class: "number" }, button);
  };
  const head = make("tr", {}, ...["Chunk", "Where", "Read"].map(text => make("th", { scope: "col" }, text)), sorter("score", "Score"), sorter("attention", "Attention"), make("th", { scope: "col" }, "Beginning"));
  const rows = order.map(i => {
    const button = make("button", { type: "button", "aria-label": `Show chunk ${i + 1} in the map` }, `${whole(i + 1)}`);
    button.addEventListener("click", () => { pin(i); $("map-title").scrollIntoView(); reveal(); });
    return make("tr", {}, make("td", {}, button), make("td", { class: "from" }, where(chunks[i]).join(", ")), make("td", { "data-label": "Read" }, readOf(chunks[i])),
      make("td", { class: "number", "data-label": "Score" }, score[i] === null ? "–" : digits(score[i])), make("td", { class: "number", "data-label": "Attention" }, percent(attention[i])),
      make("td", { class: "wide" }, chunks[i].excerpt));
  });
  $("top").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}
function redraw() {
  readColours();
  drawLegend();
  drawBands();
  show(current);
}

drawFigures();
buildBands();
$("modes").append(...Object.entries(modes).map(([name, label]) => {
  const input = make("input", { type: "radio", name: "mode", value: name });
  input.checked = name === mode;
  input.addEventListener("change", () => { mode = name; redraw(); });
  return make("label", {}, input, label);
}));
readColours();
drawSources();
drawLayers();
drawTop("score");
/* At first: the best chunk of the best source. */
const [low, high] = sources.length ? sources[0].chunks : [0, chunks.length - 1];
current = pinned = [...rank.keys()].filter(i => i >= low && i <= high).sort((a, b) => rank[a] - rank[b])[0];
redraw();
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
