"use strict";
// Which side of a picture the person's left is on. Pictures are made with it on the left; radiologists look from the feet, and have it on the
// right. The choice is remembered where the browser lets a page from disk remember anything.
const SIDE = "volgen.side";
const radiological = () => document.body.classList.contains("radiological");
function choose(side) {
  document.body.classList.toggle("radiological", side === "radiological");
  for (const input of document.querySelectorAll("input[name=side]")) input.checked = input.value === side;
  dispatchEvent(new Event("side"));
}
for (const input of document.querySelectorAll("input[name=side]")) {
  input.addEventListener("change", () => {
    try { localStorage.setItem(SIDE, input.value); } catch { /* then it is for this page only */ }
    choose(input.value);
  });
}
try { choose(localStorage.getItem(SIDE) === "radiological" ? "radiological" : "neurological"); } catch { choose("neurological"); }
