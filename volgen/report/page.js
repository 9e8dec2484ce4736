"use strict";
// Sorting: a click on a heading, or Enter on it. Cells say what they sort by in data-value.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows].sort((a, b) => key(a).localeCompare(key(b), undefined, { numeric: true }));
    table.tBodies[0].append(...(down ? rows.reverse() : rows));
  }));
}
// One viewer for all volumes: a browser keeps few WebGL contexts alive. It moves to the volume that is looked at.
const holder = document.createElement("div");
holder.className = "viewer";
const canvas = document.createElement("canvas");
holder.append(canvas);
let viewer = null, shown = "";
async function look(id, place) {
  const data = document.getElementById("data-" + id);
  if (!data) return;
  document.getElementById("view-" + id).append(holder);
  document.getElementById(id).open = true;
  try {
    if (!viewer) {
      viewer = new niivue.Niivue({ backColor: [0, 0, 0, 1], crosshairWidth: 0.5, crosshairColor: [1, 0.35, 0.4, 0.8], logLevel: "error" });
      await viewer.attachToCanvas(canvas);
      viewer.setSliceType(viewer.sliceTypeMultiplanar);
    }
    if (shown !== id) {
      while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
      const bytes = Uint8Array.from(atob(data.textContent.trim()), (c) => c.charCodeAt(0));
      await viewer.loadFromArrayBuffer(bytes.buffer, id + ".nii.gz");
      shown = id;
    }
    viewer.scene.crosshairPos = place;
    viewer.drawScene();
    holder.dataset.shown = id + " " + place.map((p) => p.toFixed(4)).join(" ");
  } catch (error) {
    holder.textContent = "This browser cannot show volumes (it needs WebGL 2): " + error.message;
    holder.dataset.failed = "1";
  }
}
for (const button of document.querySelectorAll("button[data-place]")) {
  button.addEventListener("click", () => look(button.dataset.volume, button.dataset.place.split(" ").map(Number)));
}
// Open at the worst slice of the worst volume, once the page itself can be read.
const worst = document.querySelector("button[data-place]");
if (worst) setTimeout(() => look(worst.dataset.volume, worst.dataset.place.split(" ").map(Number)), 0);
