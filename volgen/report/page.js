"use strict";
// One viewer for all volumes: a browser keeps few WebGL contexts alive. It moves to the volume that is looked at.
const holder = document.createElement("div");
holder.className = "viewer";
const canvas = document.createElement("canvas");
holder.append(canvas);
let viewer = null, shown = "";
const bytesOf = (element) => Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
// The outline of the head that was measured, over the pictures and in the viewer.
const outline = document.getElementById("outline");
function outlined() {
  document.body.classList.toggle("plain", !outline.checked);
  if (viewer?.volumes.length > 1) viewer.setOpacity(1, outline.checked ? 0.6 : 0);
}
outline.addEventListener("change", outlined);
async function look(id, place) {
  const data = document.getElementById("data-" + id);
  if (!data) return;
  document.getElementById("view-" + id).append(holder);
  document.getElementById(id).open = true;
  try {
    if (!viewer) {
      // The viewer is most of the page's script. It is read when it is needed, so that the page itself is there at once.
      const code = document.createElement("script");
      code.textContent = document.getElementById("niivue").textContent;
      document.head.append(code);
      viewer = new niivue.Niivue({ backColor: [0, 0, 0, 1], crosshairWidth: 0.5, crosshairColor: [1, 0.35, 0.4, 0.8], logLevel: "error" });
      await viewer.attachToCanvas(canvas);
      viewer.setSliceType(viewer.sliceTypeMultiplanar);
      viewer.addColormap("outline", { R: [0, 255], G: [0, 176], B: [0, 0], A: [0, 255], I: [0, 255] });
    }
    if (shown !== id) {
      while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
      const bytes = bytesOf(data);
      await viewer.loadFromArrayBuffer(bytes.buffer, id + ".nii.gz");
      const mask = document.getElementById("mask-" + id);
      if (mask) {
        await viewer.loadFromArrayBuffer(bytesOf(mask).buffer, id + "-head.nii.gz");
        Object.assign(viewer.volumes[1], { cal_min: 0.4, cal_max: 1 });
        viewer.setColormap(viewer.volumes[1].id, "outline");
        outlined();
      }
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
  button.addEventListener("click", async () => {
    await look(button.dataset.volume, button.dataset.place.split(" ").map(Number));
    holder.scrollIntoView({ block: "nearest" });
  });
}
// On paper nothing can be opened: volumes that fail are printed open.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details.failed:not([open])")];
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
// Open at the worst slice of the worst volume, once the page itself can be read.
const worst = document.querySelector("details button[data-place]");
const begin = () => setTimeout(() => look(worst.dataset.volume, worst.dataset.place.split(" ").map(Number)), 0);
if (worst) addEventListener("load", () => requestAnimationFrame(begin));
