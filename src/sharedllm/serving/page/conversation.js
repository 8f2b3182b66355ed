/* The conversation: questions, answers as they stream, and their sources. It is kept for this tab, by memory. */

import { Failure, events, request } from "./api.js";
import { $, button, make, placeOf, some } from "./elements.js";
import { closePanel, openMap, openSource } from "./panel.js";

/* The longest answer, in tokens; and how many characters of earlier turns are sent for each token of the window. */
const ANSWER = 256, CHARACTERS = 2;
const LEFT = "The page was left before this answer ended.";

let state = { model: "", memory: null, window: 512, empty: false, others: 0, makes: false };
let turns = [], running = null, left = false;
/* The source of each line that says where one stands. */
const sourceOf = new WeakMap();

const stored = () => `sharedllm.turns.${state.model}:${state.memory ?? ""}`;

/* Show the conversation over a memory.
 * now: the model's name and window; memory: its name, null for none; empty: it has no documents; others: how many memories
 * there are; makes: whether the server makes new ones. */
export function openConversation(now) {
  if (answering()) keep();
  stop();
  state = now;
  $("question").placeholder = now.memory === null ? "Ask the model" : "Ask about these documents";
  try {
    turns = JSON.parse(sessionStorage.getItem(stored()) ?? "[]");
  } catch {
    turns = [];
  }
  for (const turn of turns) if (turn.ended === false) turn.error ??= LEFT;
  draw();
}

/* What a conversation that has not begun says depends on whether there are documents, and how a source is named on what others are called. */
export function documentsChanged(empty) {
  state = { ...state, empty };
  if (!turns.length) draw();
  for (const place of document.querySelectorAll(".sources .place")) place.textContent = placeOf(sourceOf.get(place));
}

export function newConversation() {
  stop();
  turns = [];
  keep();
  closePanel();
  draw();
  $("question").focus();
}

export const answering = () => running !== null;

export function stop() {
  running?.abort();
}

function keep() {
  if (left) return;
  try {
    sessionStorage.setItem(stored(), JSON.stringify(turns));
  } catch {
    /* The storage is full: the conversation goes on, but is not kept. */
  }
}

/* The earlier turns that are sent: the last ones, as far as the window has room. */
function messages(question) {
  const sent = [{ role: "user", content: question }];
  let room = state.window * CHARACTERS - question.length;
  for (const turn of turns.slice(0, -1).reverse()) {
    room -= turn.question.length + turn.answer.length;
    if (room < 0 || turn.error || !turn.answer) break;
    sent.unshift({ role: "user", content: turn.question }, { role: "assistant", content: turn.answer });
  }
  return sent;
}

/* Ask, and show the answer as it is written. No other one may be running. */
export async function ask(question) {
  const own = new AbortController(), turn = { question, answer: "", sources: [], read: null, found: null, explanation: null, error: null, stopped: false, cut: false, ended: false };
  const kept = turns;
  turns.push(turn);
  keep();
  running = own;
  if (turns.length === 1) $("turns").replaceChildren();
  const element = drawTurn(turn);
  $("turns").append(element.whole);
  busy(true);
  scroll();
  try {
    const model = state.memory === null ? state.model : `${state.model}:${state.memory}`;
    const body = { model, messages: messages(question), max_tokens: ANSWER, stream: true, explain: true };
    if (state.memory === null) body.memory = "";
    const response = await request("/v1/chat/completions", {
      method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal: own.signal,
    });
    for await (const event of events(response)) {
      const delta = event.choices[0]?.delta.content;
      if (delta) {
        turn.answer += delta;
        element.answer.textContent = turn.answer;
        scroll();
      }
      if (event.choices[0]?.finish_reason === "length") turn.cut = true;
      if (event.sharedllm) {
        turn.sources = event.sharedllm.sources;
        turn.read = event.sharedllm.selected_tokens;
        turn.found = event.sharedllm.found;
        turn.explanation = event.sharedllm.explanation ?? null;
      }
    }
  } catch (error) {
    if (error.name === "AbortError") turn.stopped = true;
    else turn.error = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
  }
  if (running === own) running = null;
  busy(running !== null);
  turn.ended = true;
  if (turns !== kept) return;
  keep();
  const done = drawTurn(turn);
  element.whole.replaceWith(done.whole);
  scroll();
}

function busy(yes) {
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  $("turns").setAttribute("aria-busy", yes);
  for (const again of document.querySelectorAll(".again")) again.disabled = yes;
}

function scroll() {
  const box = $("turns");
  box.scrollTop = box.scrollHeight;
}

function draw() {
  if (!turns.length) {
    $("turns").replaceChildren(welcome());
    return;
  }
  $("turns").replaceChildren(...turns.map(turn => drawTurn(turn).whole));
  scroll();
}

function welcome() {
  const box = make("div", { class: "welcome" }), alone = "Questions are answered by the model alone. To ask documents, ";
  if (state.memory === null && state.others) {
    box.append(make("h2", {}, "Ask the model alone"), make("p", { class: "quiet" }, `${alone}choose a memory.`));
  } else if (state.memory === null && state.makes) {
    box.append(make("h2", {}, "There is no memory yet"), make("p", { class: "quiet" }, `${alone}make a memory and add files to it.`));
  } else if (state.memory === null) {
    box.append(
      make("h2", {}, "No memory is served"),
      make("p", {}, `${alone}read one into a memory and serve it:`),
      make("pre", {}, "sharedllm read book.txt --keep-all -o book.memory\nsharedllm serve book.memory"),
    );
  } else if (state.empty) {
    box.append(make("h2", {}, `${state.memory} is empty`), make("p", { class: "quiet" }, "Add documents to it, then ask."));
  } else {
    box.append(make("h2", {}, `Ask ${state.memory}`), make("p", { class: "quiet" }, "Each question reads the parts of the documents that matter to it. The answer names its sources; open one to see it in its document."));
  }
  return box;
}

/* The element of a turn, and that of its answer. */
function drawTurn(turn) {
  const answer = make("p", { class: "answer" }, turn.answer);
  const whole = make("article", { class: "turn" }, make("p", { class: "asked" }, turn.question));
  if (turn.answer || !(turn.error || turn.stopped)) whole.append(answer);
  if (turn.found === false) whole.append(make("p", { class: "quiet" }, "This may not be in the documents: no part of them says much of the question."));
  if (turn.cut) whole.append(make("p", { class: "quiet" }, `The answer is cut after ${ANSWER} tokens.`));
  if (turn.stopped) whole.append(make("p", { class: "quiet" }, "Stopped."));
  if (turn.error) {
    const again = button("Ask again", () => { remove(turn); ask(turn.question); }, { class: "again" });
    again.disabled = answering();
    whole.append(make("p", { class: "error", role: "alert" }, turn.error), make("div", { class: "row" }, again));
  }
  const sources = turn.sources.filter(source => source.text.trim());
  if (sources.length) whole.append(make("ol", { class: "sources", "aria-label": "Sources" }, ...sources.map(drawSource)));
  if (turn.read !== null) {
    const row = make("div", { class: "row" }, make("span", { class: "quiet" }, `${some(turn.read, "token")} read for this.`));
    if (turn.explanation) row.append(button("Show what was read", () => openMap(turn), { class: "map" }));
    whole.append(row);
  }
  return { whole, answer };
}

function drawSource(source) {
  const memory = state.memory;
  const open = button("", () => openSource(memory, source, open), { class: "source" });
  const place = make("span", { class: "place" }, placeOf(source));
  sourceOf.set(place, source);
  open.append(place, make("span", { class: "words", dir: "auto" }, source.excerpt ?? source.text.trim()));
  return make("li", {}, open);
}

function remove(turn) {
  turns = turns.filter(other => other !== turn);
  keep();
  draw();
  if (!turns.length) $("turns").replaceChildren();
}

/* What was written so far is there after a reload; the error with which the browser then ends the answer is not kept. */
addEventListener("pagehide", () => {
  if (answering()) keep();
  left = true;
});
addEventListener("pageshow", () => { left = false; });
