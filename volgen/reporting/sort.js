"use strict";
// Sorting: a click on a heading, or Enter on it. Cells say what they sort by in data-value; numbers go by size, what is missing comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [Number.parseFloat(a), Number.parseFloat(b)];
      return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
    };
    const number = heads[column].classList.contains("n");
    const missing = (row) => number && Number.isNaN(Number.parseFloat(key(row)));
    const order = number ? compare : (a, b) => a.localeCompare(b, undefined, { numeric: true });
    const rows = [...table.tBodies[0].rows].sort((a, b) => missing(a) - missing(b) || (down ? order(key(b), key(a)) : order(key(a), key(b))));
    table.tBodies[0].append(...rows);
  }));
}
