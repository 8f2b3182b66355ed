/* The panel beside the conversation: a source in its document, a document, or the map of what was read for an answer. */

import { Failure, json, pathOf } from "./api.js";
import { $, button, make, whole } from "./elements.js";
import { shown } from "./names.js";

/* Characters of a document that are shown at once, and around a source. */
const STEP = 8000, AROUND = 3000;

let opener = null, number = 0;

function open(title, from) {
  if ($("panel").hidden) opener = from ?? document.activeElement;
  for (const other of document.querySelectorAll(".source[aria-current]")) other.removeAttribute("aria-current");
  if (from?.classList.contains("source")) from.setAttribute("aria-current", "true");
  $("panel-title").textContent = title;
  $("panel-body").className = "";
  $("panel-body").replaceChildren();
  $("panel").hidden = false;
  $("stage").classList.add("open");
  $("panel").focus({ preventScroll: true });
  number += 1;
  return number;
}

export const panelIsOpen = () => !$("panel").hidden;

export function closePanel() {
  if (!panelIsOpen()) return;
  number += 1;
  $("panel").hidden = true;
  $("panel-body").replaceChildren();
  $("stage").classList.remove("open");
  for (const other of document.querySelectorAll(".source[aria-current]")) other.removeAttribute("aria-current");
  if (opener?.isConnected) opener.focus();
  opener = null;
}

/* The data of `sharedllm explain`, drawn by its own page. It takes the key from this tab's storage. */
export function openMap(turn) {
  open("What was read");
  $("panel-body").className = "framed";
  $("panel-body").append(make("iframe", { title: "What was read for the answer", src: `/page/explain.html#${encodeURIComponent(turn.explanation)}` }));
}

/* A source in its document, marked. */
export function openSource(memory, source, from) {
  const [start, end] = source.characters;
  return read(memory, source.document, from, Math.max(start - AROUND, 0), end + AROUND, [start, end]);
}

export function openDocument(memory, name, from) {
  return read(memory, name, from, 0, STEP, null);
}

async function read(memory, name, from, start, end, marked) {
  const own = open(shown(name), from), body = $("panel-body");
  const part = (a, b) => json(`${pathOf(memory, name)}?start=${a}&end=${b}`);
  const here = () => own === number;
  const fail = error => {
    if (here()) body.prepend(make("p", { class: "error", role: "alert" }, error instanceof Failure ? error.message : String(error)));
  };
  body.append(make("p", { class: "quiet" }, "Opening …"));
  let first;
  try {
    first = await part(start, end);
  } catch (error) {
    body.replaceChildren();
    fail(error);
    return;
  }
  if (!here()) return;
  let [low, high] = first.characters;
  const text = make("div", { class: "text", tabindex: 0 });
  const places = make("p", { class: "quiet" });
  const describe = () => { places.textContent = `Characters ${whole(low)}–${whole(high)} of ${whole(first.total)}`; };
  const before = button("Show what stands before", () => grow(-1), { class: "more" });
  const after = button("Show what follows", () => grow(1), { class: "more" });
  const buttons = () => { before.hidden = low <= 0; after.hidden = high >= first.total; };
  async function grow(direction) {
    before.disabled = after.disabled = true;
    try {
      const more = direction < 0 ? await part(Math.max(low - STEP, 0), low) : await part(high, high + STEP);
      if (!here()) return;
      const height = body.scrollHeight;
      if (direction < 0) {
        text.prepend(more.text);
        low = more.characters[0];
        body.scrollTop += body.scrollHeight - height;
      } else {
        text.append(more.text);
        high = Math.max(more.characters[1], high + 1);
      }
    } catch (error) {
      fail(error);
    }
    before.disabled = after.disabled = false;
    describe();
    buttons();
  }
  if (marked) {
    const [a, b] = marked.map(place => Math.min(Math.max(place - low, 0), first.text.length));
    text.append(first.text.slice(0, a), make("mark", {}, first.text.slice(a, b)), first.text.slice(b));
  } else text.append(first.text);
  body.replaceChildren(places, before, text, after);
  describe();
  buttons();
  const mark = text.querySelector("mark");
  if (mark) body.scrollTop = mark.getBoundingClientRect().top - body.getBoundingClientRect().top - body.clientHeight / 3;
  else body.scrollTop = 0;
}
