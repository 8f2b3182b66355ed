/* The documents of a memory: the list, and uploads with their progress. Files are read one after the other. */

import { Failure, events, json, pathOf, request } from "./api.js";
import { $, button, make, some, whole } from "./elements.js";
import { shown, tellApart } from "./names.js";
import { openDocument } from "./panel.js";

let memory = null, most = Infinity, waiting = Promise.resolve(), changed = () => {};

/* on: called after a change, with the memory as it is now. */
export function onChange(on) {
  changed = on;
}

/* The most bytes of a file. */
export function limitUploads(bytes) {
  most = bytes ?? Infinity;
}

/* Show a memory's documents. shownMemory: as the server describes it; null for none. */
export function showDocuments(shownMemory) {
  if (shownMemory?.id !== memory) $("uploads").replaceChildren();
  memory = shownMemory?.id ?? null;
  $("drop").hidden = memory === null;
  tellApart((shownMemory?.documents ?? []).map(found => found.name));
  const damaged = new Set((shownMemory?.damaged ?? []).map(lost => lost.document));
  const rows = (shownMemory?.documents ?? []).map(found => row(found, damaged.has(found.name)));
  const none = memory === null ? "None: no memory is chosen." : "No documents yet.";
  $("list").replaceChildren(...(rows.length ? rows : [make("li", { class: "quiet" }, none)]));
}

function row(found, damaged) {
  const own = memory;
  const open = button(shown(found.name), () => openDocument(own, found.name, open), { class: "name", title: found.name });
  const lacks = damaged ? ", a part of it is lost: upload it again" : found.finished === false ? ", not read to its end: upload it again" : "";
  const size = some(found.tokens, "token") + lacks;
  const remove = button("×", async () => {
    if (!confirm(`Remove ${found.name} from ${own}?`)) return;
    remove.disabled = true;
    try {
      changed(await json(pathOf(own, found.name), { method: "DELETE" }));
    } catch (error) {
      remove.disabled = false;
      li.append(make("p", { class: "error", role: "alert" }, said(error)));
    }
  }, { class: "icon", "aria-label": `Remove ${shown(found.name)}` });
  const li = make("li", {}, make("div", {}, open, make("span", { class: "quiet" }, size)), remove);
  return li;
}

const said = error => error instanceof Failure ? error.message : `The page failed: ${error.message}`;

/* Read files into the memory that is shown. */
export function upload(files) {
  if (memory === null) return;
  for (const file of files) {
    const item = make("li", {}), own = memory;
    $("uploads").append(item);
    item.replaceChildren(`${file.name} waits`);
    waiting = waiting.then(() => one(own, file, item, false));
  }
}

async function one(own, file, item, replaces) {
  const bar = make("progress", { "aria-label": `Reading ${file.name}` }), note = make("span", { class: "quiet" }, "Sending …");
  const leaving = new AbortController();
  /* Refused here, because a server that refuses a body may close the connection before its answer is read. */
  if (file.size > most) {
    item.replaceChildren(file.name, make("p", { class: "error", role: "alert" }, `The file has ${whole(file.size)} bytes, more than ${whole(most)}: split it, or start the server with a larger --max-upload.`), make("div", { class: "row" }, button("Close", () => item.remove())));
    return;
  }
  item.replaceChildren(`Reading ${file.name}`, bar, note, make("div", { class: "row" }, button("Cancel", () => leaving.abort())));
  try {
    const response = await request(pathOf(own, file.name) + (replaces ? "?replace=true" : ""), {
      method: "PUT", body: file, headers: { Accept: "text/event-stream", "Content-Type": "application/octet-stream" }, signal: leaving.signal,
    });
    const begun = performance.now();
    for await (const event of events(response)) {
      if (event.object === "memory.progress") {
        bar.max = event.of;
        bar.value = event.read;
        const left = event.read ? (performance.now() - begun) / 1000 * (event.of - event.read) / event.read : 0;
        note.textContent = `${Math.round(100 * event.read / event.of)} %` + (left > 2 ? `, about ${some(Math.round(left), "second")} left` : "");
      } else changed(event);
    }
    item.remove();
  } catch (error) {
    if (error.name === "AbortError") {
      item.remove();
      return;
    }
    const row = make("div", { class: "row" });
    if (error.status === 409 && !replaces) row.append(button("Replace it", () => { waiting = waiting.then(() => one(own, file, item, true)); }));
    row.append(button("Close", () => item.remove()));
    item.replaceChildren(file.name, make("p", { class: "error", role: "alert" }, said(error)), row);
  }
}

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  upload([...$("files").files]);
  $("files").value = "";
});
let depth = 0;
addEventListener("dragenter", event => { event.preventDefault(); depth += 1; document.body.classList.add("dragging"); });
addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) document.body.classList.remove("dragging"); });
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  upload([...event.dataTransfer.files]);
});
