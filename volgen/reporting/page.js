"use strict";
// One viewer for all volumes: a browser keeps few WebGL contexts alive. It moves to the volume that is looked at.
const holder = document.createElement("div"), canvas = document.createElement("canvas"), trouble = document.createElement("p");
holder.className = "viewer";
trouble.className = "trouble";
trouble.hidden = true;
holder.append(canvas, trouble);
let viewer = null, read = false, shown = "", wanted = null, working = null;
const bytesOf = (element) => Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
// The outline of the head that was measured, over the pictures and in the viewer.
const outline = document.getElementById("outline");
function outlined() {
  document.body.classList.toggle("plain", !outline.checked);
  if (viewer?.volumes.length > 1) viewer.setOpacity(1, outline.checked ? 0.6 : 0);
}
outline.addEventListener("change", outlined);
addEventListener("side", () => { if (viewer?.volumes.length) viewer.setRadiologicalConvention(radiological()); });
// What is asked for while a volume is on its way waits, and only the last of it is shown: one thing at a time happens to the viewer.
function look(id, place) {
  if (!document.getElementById("data-" + id)) return Promise.resolve();
  document.getElementById("view-" + id).append(holder);
  document.getElementById(id).open = true;
  wanted = { id, place };
  working ??= work().finally(() => { working = null; });
  return working;
}
async function work() {
  while (wanted) {
    const { id, place } = wanted;
    wanted = null;
    try {
      await show(id, place);
      trouble.hidden = true;
      delete holder.dataset.failed;
    } catch (error) {
      // The next click tries again: nothing of the viewer is thrown away but what failed.
      shown = "";
      const able = document.createElement("canvas").getContext("webgl2");
      trouble.textContent = (able ? "This volume could not be shown: " : "This browser cannot show volumes (it needs WebGL 2): ") + error.message;
      trouble.hidden = false;
      holder.dataset.failed = "1";
    }
  }
}
async function begun() {
  if (viewer) return;
  // The viewer is most of the page's script. It is read when it is needed, so that the page itself is there at once.
  if (!read) {
    const code = document.createElement("script");
    code.textContent = document.getElementById("niivue").textContent;
    document.head.append(code);
    read = true;
  }
  const made = new niivue.Niivue({
    backColor: [0, 0, 0, 1], crosshairWidth: 0.5, crosshairColor: [1, 0.35, 0.4, 0.8], logLevel: "error",
    isRadiologicalConvention: radiological(),
  });
  await made.attachToCanvas(canvas);
  made.setSliceType(made.sliceTypeMultiplanar);
  made.addColormap("outline", { R: [0, 255], G: [0, 176], B: [0, 0], A: [0, 255], I: [0, 255] });
  viewer = made;
}
async function show(id, place) {
  await begun();
  if (shown !== id) {
    shown = "";
    while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
    await viewer.loadFromArrayBuffer(bytesOf(document.getElementById("data-" + id)).buffer, id + ".nii.gz");
    const mask = document.getElementById("mask-" + id);
    if (mask) {
      await viewer.loadFromArrayBuffer(bytesOf(mask).buffer, id + "-head.nii.gz");
      Object.assign(viewer.volumes[1], { cal_min: 0.4, cal_max: 1 });
      viewer.setColormap(viewer.volumes[1].id, "outline");
      outlined();
    }
    viewer.setRadiologicalConvention(radiological());
    shown = id;
  }
  viewer.scene.crosshairPos = place;
  viewer.drawScene();
  holder.dataset.shown = id + " " + place.map((p) => p.toFixed(4)).join(" ");
}
for (const button of document.querySelectorAll("button[data-place]")) {
  button.addEventListener("click", async () => {
    await look(button.dataset.volume, button.dataset.place.split(" ").map(Number));
    holder.scrollIntoView({ block: "nearest" });
  });
}
// Generated beside real: which volume, which real scan, at which place in the head.
const beside = document.getElementById("beside");
function compared() {
  const of = (name) => beside.querySelector("[name=" + name + "]")?.value ?? "0";
  const place = beside.querySelector("[name=place]:checked").value;
  for (const row of beside.querySelectorAll("[data-kind]")) row.hidden = row.dataset.index !== of(row.dataset.kind) || row.dataset.place !== place;
}
beside?.addEventListener("change", compared);
if (beside) compared(); // a browser may remember what was chosen before
// On paper nothing can be opened: volumes that fail are printed open.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details.failed:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
// Open at the worst slice of the worst volume, once the page itself can be read, unless somebody has asked for another meanwhile.
const worst = document.querySelector("details button[data-place]");
const begin = () => setTimeout(() => {
  if (!working && !shown) look(worst.dataset.volume, worst.dataset.place.split(" ").map(Number));
}, 0);
if (worst) addEventListener("load", () => requestAnimationFrame(begin));
