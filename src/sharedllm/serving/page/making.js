/* A new memory: its name is asked for, and the server makes it; and the removal of one. */

import { Failure, json } from "./api.js";
import { $, some } from "./elements.js";

let made = () => {}, removed = () => {}, shown = null;

/* on: called with the new memory, as the server describes it. */
export function onMade(on) {
  made = on;
}

/* on: called with the name of a memory that was removed. */
export function onRemoved(on) {
  removed = on;
}

/* Offer to remove a memory, if the server lets it be removed. memory: as the server describes it; null for none. */
export function offerRemoval(memory) {
  shown = memory?.removable ? memory : null;
  $("remove-memory").hidden = shown === null;
}

async function remove() {
  const { id, documents } = shown;
  if (!confirm(`Delete ${id} with ${some(documents.length, "document")}?`)) return;
  $("remove-memory").disabled = true;
  try {
    await json(`/v1/memories/${encodeURIComponent(id)}`, { method: "DELETE" });
    removed(id);
  } catch (error) {
    alert(error instanceof Failure ? error.message : `The page failed: ${error.message}`);
  }
  $("remove-memory").disabled = false;
}

function say(text, wrong) {
  $("make-note").textContent = text;
  $("make-note").className = wrong ? "error" : "quiet";
  if (wrong) $("make-note").setAttribute("role", "alert");
  else $("make-note").removeAttribute("role");
}

export function askForMemory() {
  $("make-name").value = "";
  say("It is empty until you add documents.", false);
  $("make").showModal();
  $("make-name").focus();
}

async function make(name) {
  const send = $("make").querySelector("[type=submit]");
  send.disabled = true;
  try {
    const memory = await json("/v1/memories", {
      method: "POST", body: JSON.stringify({ name }), headers: { "Content-Type": "application/json" },
    });
    $("make").close();
    made(memory);
  } catch (error) {
    say(error instanceof Failure ? error.message : `The page failed: ${error.message}`, true);
    $("make-name").focus();
  }
  send.disabled = false;
}

$("make").querySelector("form").addEventListener("submit", event => {
  event.preventDefault();
  make($("make-name").value.trim());
});
$("make-cancel").addEventListener("click", () => $("make").close());
$("remove-memory").addEventListener("click", remove);
