/* Short names of documents that tell them apart; the page of the server uses them too. */

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
