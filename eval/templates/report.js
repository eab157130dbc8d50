"use strict";
// Search, sort and filter; without this script, the examples can still be opened and read.
const byId = (id) => document.getElementById(id);
const [list, controls, search, sort, mistake, leaked] =
  ["list", "controls", "search", "sort", "mistake", "leaked"].map(byId);
const items = Array.from(list.children);
const plain = (text) => text.normalize("NFC").toLowerCase();
const texts = new Map(items.map((item) => {
  const parts = Array.from(item.querySelectorAll(".text"), (part) => part.textContent);
  return [item, plain(parts.join("\n"))];
}));

function filter() {
  const terms = plain(search.value).split(/\s+/);
  for (const item of items) {
    item.hidden =
      (mistake.value && !item.dataset.mistakes.split(" ").includes(mistake.value)) ||
      (leaked?.checked && !("leaked" in item.dataset)) ||
      !terms.every((term) => texts.get(item).includes(term));
  }
  const shown = items.filter((item) => !item.hidden).length;
  byId("count").textContent =
    shown === items.length ? `${shown} dialogues` : `${shown} of ${items.length} dialogues`;
}

function reorder() {
  const [key, direction] = sort.value.split(" ");
  const sign = direction === "down" ? -1 : 1;
  const difference = (a, b, name) => Number(a.dataset[name]) - Number(b.dataset[name]);
  items.sort((a, b) => sign * difference(a, b, key) || difference(a, b, "place"));
  list.append(...items);
}

for (const control of [search, mistake, leaked]) control?.addEventListener("input", filter);
sort.addEventListener("change", reorder);
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("reset", () => setTimeout(() => (filter(), reorder())));
controls.hidden = false;
// A browser may keep the values of the fields when the page is reloaded.
filter();
reorder();

for (const button of document.querySelectorAll(".copies button")) {
  button.parentElement.hidden = false;
  button.addEventListener("click", async () => {
    const status = button.parentElement.querySelector("[role=status]");
    try {
      await navigator.clipboard.writeText(button.dataset.text);
      status.textContent = `${button.textContent} copied`;
    } catch {
      status.textContent = "This browser does not allow the page to copy";
    }
  });
}

// Say that a table scrolls if it is too wide; without a script, only its shadow shows it.
const watcher = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.classList.toggle("wide", target.scrollWidth > target.clientWidth + 1);
  }
});
for (const place of document.querySelectorAll(".scroll")) watcher.observe(place);
