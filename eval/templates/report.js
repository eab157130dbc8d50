"use strict";
// Searching, sorting and filtering; without this script the list still opens and reads.
const list = document.getElementById("list");
const items = Array.from(list.children);
const count = document.getElementById("count");
const controls = document.getElementById("controls");
const [search, sort, mistake, leaked] = ["search", "sort", "mistake", "leaked"].map((id) =>
  document.getElementById(id)
);
const texts = new Map();

function plain(text) {
  return text.normalize("NFC").toLowerCase();
}

function textOf(item) {
  if (!texts.has(item)) {
    const parts = Array.from(item.querySelectorAll(".text"), (part) => part.textContent);
    texts.set(item, plain(parts.join("\n")));
  }
  return texts.get(item);
}

function filter() {
  const terms = plain(search.value).split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of items) {
    const keys = item.dataset.mistakes.split(" ");
    const fits =
      (!mistake.value || keys.includes(mistake.value)) &&
      (!leaked || !leaked.checked || "leaked" in item.dataset) &&
      terms.every((term) => textOf(item).includes(term));
    item.hidden = !fits;
    shown += fits ? 1 : 0;
  }
  count.textContent =
    shown === items.length ? `${shown} dialogues` : `${shown} of ${items.length} dialogues`;
}

function reorder() {
  const [key, direction] = sort.value.split(" ");
  const sign = direction === "down" ? -1 : 1;
  const value = (item) => Number(item.dataset[key]);
  const place = (item) => Number(item.dataset.place);
  const sorted = items.slice().sort((a, b) => sign * (value(a) - value(b)) || place(a) - place(b));
  list.append(...sorted);
}

search.addEventListener("input", filter);
mistake.addEventListener("change", filter);
if (leaked) leaked.addEventListener("change", filter);
sort.addEventListener("change", reorder);
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(() => (filter(), reorder())));
controls.hidden = false;
// A browser may have kept what stood in the fields before the page was loaded again.
filter();
reorder();
