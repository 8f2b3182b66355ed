/* Small helpers for the page's elements. */

import { shown } from "./names.js";

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

/* Where a source stands: the server says it in words if the document has pages or lines. */
export function placeOf(source) {
  return source.place ? `${shown(source.document)}, ${source.place}` : `${shown(source.document)}, characters ${whole(source.characters[0])}–${whole(source.characters[1])}`;
}
