/* Small helpers for the page's elements. */

export const $ = id => document.getElementById(id);

/* An element with attributes and children; texts become text nodes, never markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function button(label, act, attributes = {}) {
  const element = make("button", { type: "button", ...attributes }, label);
  element.addEventListener("click", act);
  return element;
}

export const whole = n => n.toLocaleString("en-US");
export const some = (n, name) => `${whole(n)} ${name}${n === 1 ? "" : "s"}`;

let names = new Set(), endings = new Map();

const endingsOf = name => {
  const parts = name.split("/");
  return parts.map((_, i) => parts.slice(-1 - i).join("/"));
};

/* all: the names of the memory's documents, which `shown` tells apart. */
export function tellApart(all) {
  names = new Set(all);
  endings = new Map();
  for (const ending of [...names].flatMap(endingsOf)) endings.set(ending, (endings.get(ending) ?? 0) + 1);
}

/* The end of a document's name: as many parts of its path as no other document ends with. */
export function shown(name) {
  const own = names.has(name) ? 1 : 0;
  return endingsOf(name).find(ending => ending && (endings.get(ending) ?? 0) <= own) ?? name;
}

/* Where a source stands: the server says it in words if the document has pages or lines. */
export function placeOf(source) {
  return source.place ? `${shown(source.document)}, ${source.place}` : `${shown(source.document)}, characters ${whole(source.characters[0])}–${whole(source.characters[1])}`;
}
