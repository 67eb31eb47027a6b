// Filters of the report by data set and kind of question. The address keeps them: #dataset=...&kind=...
"use strict";

const bar = document.querySelector(".filters");
const dataset = document.querySelector("#dataset");
const kind = document.querySelector("#kind");

function isShown(element) {
  return (!dataset.value || element.dataset.dataset === dataset.value)
    && (!kind.value || element.dataset.kind === kind.value);
}

function offerKinds() {
  const known = new Set();
  for (const pane of document.querySelectorAll(".pane")) {
    if (!dataset.value || pane.dataset.dataset === dataset.value) known.add(pane.dataset.kind);
  }
  for (const option of kind.options) option.disabled = option.hidden = option.value !== "" && !known.has(option.value);
  if (kind.selectedOptions[0].disabled) kind.value = "";
}

function filter() {
  offerKinds();
  for (const section of document.querySelectorAll(".dataset")) {
    section.hidden = dataset.value !== "" && section.dataset.dataset !== dataset.value;
  }
  for (const pane of document.querySelectorAll(".pane")) pane.hidden = pane.dataset.kind !== kind.value;
  for (const absent of document.querySelectorAll(".absent")) {
    absent.hidden = kind.value === "" || absent.closest(".dataset").querySelector(".pane:not([hidden])") !== null;
  }
  for (const sheet of document.querySelectorAll(".sheet")) {
    const cards = [...sheet.querySelectorAll(".card")];
    for (const card of cards) card.hidden = !isShown(card);
    const shown = cards.filter((card) => !card.hidden).length;
    const note = sheet.querySelector(".filtered");
    note.hidden = kind.value === "";
    note.textContent = `${shown} of these ${cards.length} are of the kind "${kind.value}".`;
  }
  const chosen = new URLSearchParams();
  if (dataset.value) chosen.set("dataset", dataset.value);
  if (kind.value) chosen.set("kind", kind.value);
  history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname + location.search);
}

if (bar) {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const select of [dataset, kind]) {
    const value = asked.get(select.id);
    if (value !== null && [...select.options].some((option) => option.value === value)) select.value = value;
    select.addEventListener("change", filter);
  }
  bar.hidden = false;
  if (asked.has("dataset") || asked.has("kind")) filter();
}
