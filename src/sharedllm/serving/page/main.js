/* Starts the page: the choice of a memory, the question, and the keyboard. */

import { Failure, json } from "./api.js";
import { answering, ask, documentsChanged, newConversation, openConversation, stop } from "./conversation.js";
import { limitUploads, onChange, showDocuments } from "./documents.js";
import { $, make, some } from "./elements.js";
import { askForMemory, offerRemoval, onMade, onRemoved } from "./making.js";
import { closePanel, panelIsOpen } from "./panel.js";

const CHOSEN = "sharedllm.memory";
let memories = [], makes = false, model = { id: "", window: 512 };

function about(memory) {
  $("about").textContent = memory ? `${some(memory.documents.length, "document")}, ${some(memory.tokens, "token")}` : model.id;
}

function choose(name) {
  const memory = memories.find(one => one.id === name) ?? null;
  sessionStorage.setItem(CHOSEN, memory?.id ?? "");
  $("memory").value = memory?.id ?? "";
  closePanel();
  about(memory);
  showDocuments(memory);
  offerRemoval(memory);
  openConversation({
    model: model.id, window: model.window, memory: memory?.id ?? null, empty: memory?.documents.length === 0, others: memories.length, makes,
  });
}

function list() {
  const choices = memories.map(memory => make("option", { value: memory.id }, memory.id));
  $("memory").replaceChildren(...choices, make("option", { value: "" }, "no memory"));
}

async function start() {
  try {
    const [models, served] = [await json("/v1/models"), await json("/v1/memories")];
    model = models.data[0];
    memories = served.data;
    makes = served.makes_memories;
    limitUploads(served.most_upload);
  } catch (error) {
    $("turns").replaceChildren(make("p", { class: "error", role: "alert" }, error instanceof Failure ? error.message : String(error)));
    return;
  }
  $("new-memory").hidden = !makes;
  list();
  const before = sessionStorage.getItem(CHOSEN);
  choose(memories.some(memory => memory.id === before) || before === "" ? before : memories[0]?.id);
  if (matchMedia("(min-width: 761px)").matches) $("question").focus();
}

function submit() {
  const question = $("question").value.trim();
  if (!question || answering()) return;
  $("question").value = "";
  fit();
  ask(question);
}

/* The field grows with its text. */
function fit() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function toggleDocuments(open) {
  $("documents").classList.toggle("shown", open);
  $("show-documents").setAttribute("aria-expanded", open);
  $(open ? "close-documents" : "show-documents").focus();
}

onChange(memory => {
  memories = memories.map(one => one.id === memory.id ? memory : one);
  if ($("memory").value !== memory.id) return;
  about(memory);
  showDocuments(memory);
  offerRemoval(memory);
  documentsChanged(memory.documents.length === 0);
});
onMade(memory => {
  memories = [...memories, memory];
  list();
  choose(memory.id);
  if (matchMedia("(min-width: 761px)").matches) $("choose").focus();
  else toggleDocuments(true);
});
onRemoved(name => {
  const chosen = $("memory").value;
  memories = memories.filter(one => one.id !== name);
  list();
  choose(chosen === name ? memories[0]?.id : chosen);
  $("memory").focus();
});
$("memory").addEventListener("change", () => choose($("memory").value));
$("new-memory").addEventListener("click", askForMemory);
$("new").addEventListener("click", newConversation);
$("ask").addEventListener("submit", event => { event.preventDefault(); submit(); });
$("stop").addEventListener("click", () => { stop(); $("question").focus(); });
$("question").addEventListener("input", fit);
$("question").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
$("close-panel").addEventListener("click", closePanel);
$("show-documents").addEventListener("click", () => toggleDocuments(true));
$("close-documents").addEventListener("click", () => toggleDocuments(false));
addEventListener("keydown", event => {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.matches?.("input, textarea, select");
  if (event.key === "Escape") {
    if ($("documents").classList.contains("shown")) toggleDocuments(false);
    else if (answering()) stop();
    else if (panelIsOpen()) closePanel();
  } else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    $("question").focus();
  }
});
start();
