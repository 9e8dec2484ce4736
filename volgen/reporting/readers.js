"use strict";
// A reader's answers to one volume after the other. What is known here of a volume is its number and its grey levels.
const $ = (id) => document.getElementById(id);
const content = JSON.parse($("content").textContent);
const CONFIDENCE = "how sure are you?", REAL = "real or generated?";
let reader = "", trial = 0, line = 0, since = 0, answers = [], bytes = null;

const store = (() => {
  try { localStorage.setItem("volgen.try", "1"); localStorage.removeItem("volgen.try"); return localStorage; } catch { return null; }
})();
$("forgetful").hidden = store !== null;
const place = () => `volgen.readers.${content.study}.${reader}`;
const remember = () => { try { store?.setItem(place(), JSON.stringify({ trial, answers })); } catch { $("forgetful").hidden = false; } };

function remembered() {
  try {
    const found = JSON.parse(store?.getItem(place()) ?? "null");
    if (found && found.answers.length === order().length) return found;
  } catch { /* somebody else's, or damaged: begin anew */ }
  return { trial: 0, answers: order().map((volume) => ({ volume, marks: {}, generated: null, confidence: null, seconds: 0 })) };
}
const order = () => content.readers[reader];
const structures = () => (content.asks ? Object.keys(content.asks[order()[trial]]) : content.structures);
const complete = (answer, index) => {
  const wanted = content.asks ? Object.keys(content.asks[order()[index]]) : content.structures;
  return wanted.every((name) => answer.marks[name]) && (content.asks !== null || (answer.generated !== null && answer.confidence !== null));
};
const left = () => answers.filter((answer, index) => !complete(answer, index)).length;

// Questions: one line each. A line has a name, its choices and what was chosen.
function lines() {
  const answer = answers[trial], marks = Array.from({ length: content.marks }, (_, index) => index + 1);
  const found = structures().map((name) => ({
    name, note: content.asks ? Object.entries(content.asks[answer.volume][name]).map(([who, mark]) => `${who}: ${mark}`).join(", ") : "",
    choices: marks.map((mark) => [String(mark), mark]), get: () => answer.marks[name] ?? null, set: (mark) => { answer.marks[name] = mark; },
  }));
  if (content.asks === null) {
    found.push({ name: REAL, note: "", choices: [["real", false], ["generated", true]], get: () => answer.generated, set: (said) => { answer.generated = said; } });
    found.push({ name: CONFIDENCE, note: "1 is a guess", choices: marks.map((mark) => [String(mark), mark]), get: () => answer.confidence, set: (mark) => { answer.confidence = mark; } });
  }
  return found;
}

function ask() {
  const form = $("questions");
  form.replaceChildren(...lines().map((one, row) => {
    const set = document.createElement("fieldset"), legend = document.createElement("legend"), name = document.createElement("span");
    const choices = document.createElement("div"), note = document.createElement("small");
    name.textContent = one.name; note.textContent = one.note; name.append(note); legend.append(name);
    choices.className = "choices";
    for (const [text, value] of one.choices) {
      const label = document.createElement("label"), input = document.createElement("input"), shown = document.createElement("span");
      input.type = "radio"; input.name = `line${row}`; input.value = text; input.checked = one.get() === value;
      input.addEventListener("change", () => { one.set(value); choose_line(row); changed(); });
      shown.textContent = text; label.append(input, shown); choices.append(label);
    }
    set.append(legend, choices);
    set.addEventListener("pointerdown", () => choose_line(row));
    return set;
  }));
  choose_line(0);
}
function choose_line(row) {
  const sets = $("questions").children;
  line = Math.max(0, Math.min(row, sets.length - 1));
  [...sets].forEach((set, index) => set.classList.toggle("here", index === line));
}
function choose_answer(text) {
  const input = [...$("questions").children[line].querySelectorAll("input")].find((one) => one.value === text);
  if (!input) return;
  input.checked = true; input.dispatchEvent(new Event("change"));
  choose_line(line + 1);
}
function changed() {
  remember();
  $("done").value = answers.length - left();
}

// Pictures: grey levels of all slices of three planes, one after the other.
function picture() {
  const slice = Number($("slice").value), gain = Number($("bright").value) / 100;
  let offset = 0;
  content.planes.forEach((plane, index) => {
    const size = plane.rows * plane.columns, context = $(`plane${index}`).getContext("2d"), image = context.createImageData(plane.columns, plane.rows);
    const from = offset + slice * size;
    for (let pixel = 0; pixel < size; pixel += 1) {
      const grey = bytes[from + pixel] * gain;
      image.data[4 * pixel] = image.data[4 * pixel + 1] = image.data[4 * pixel + 2] = grey;
      image.data[4 * pixel + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    offset += content.slices * size;
  });
  $("place").textContent = `${slice + 1} of ${content.slices}`;
}
function leaf(by) {
  $("slice").value = Number($("slice").value) + by;
  picture();
}

function show(next) {
  time();
  trial = next;
  $("start").hidden = true; $("end").hidden = trial < answers.length; $("reading").hidden = !$("end").hidden;
  if (trial >= answers.length) {
    const missing = left();
    $("missing").textContent = missing ? `${missing} volumes are not answered yet; a file of what there is can be saved all the same.` : "All volumes are answered.";
    remember();
    return;
  }
  bytes = Uint8Array.from(atob($(`v${answers[trial].volume}`).textContent), (letter) => letter.charCodeAt(0));
  $("where").textContent = `Volume ${trial + 1} of ${answers.length}, reader ${reader}`;
  $("slice").value = Math.floor(content.slices / 2);
  $("back").disabled = trial === 0;
  ask(); picture(); changed(); scrollTo(0, 0);
  since = performance.now();
}
function time() {
  if (since && answers[trial]) answers[trial].seconds = Math.round(10 * answers[trial].seconds + (performance.now() - since) / 100) / 10;
  since = 0;
}
function begin(name) {
  reader = name;
  const found = remembered();
  answers = found.answers;
  $("done").max = answers.length;
  show(Math.min(found.trial, answers.length));
}
function save() {
  time(); since = performance.now(); remember();
  const text = JSON.stringify({ format: "volgen-readings", version: 1, study: content.study, reader, complete: left() === 0, answers }, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = `readings-${content.study}-${reader}.json`;
  document.body.append(link); link.click(); link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

content.planes.forEach((plane, index) => {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  canvas.id = `plane${index}`; canvas.width = plane.columns; canvas.height = plane.rows; canvas.style.aspectRatio = plane.aspect;
  canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", `${plane.name} slice`);
  figure.append(canvas);
  const letters = plane.name === "sagittal" ? ["P", "A"] : ["L", "R"];
  figure.className = plane.name === "sagittal" ? "" : "turns";
  letters.forEach((letter, side) => { const mark = document.createElement("i"); mark.className = side ? "east" : "west"; mark.textContent = letter; figure.append(mark); });
  $("planes").append(figure);
});
$("slice").max = content.slices - 1;
$("slice").addEventListener("input", picture);
$("bright").addEventListener("input", picture);
$("planes").addEventListener("wheel", (event) => { event.preventDefault(); leaf(Math.sign(event.deltaY)); }, { passive: false });
for (const name of Object.keys(content.readers)) {
  const button = document.createElement("button");
  button.type = "button"; button.value = name; button.textContent = content.asks ? "Begin" : `I am reader ${name}`;
  button.addEventListener("click", () => begin(name));
  $("who").append(button);
}
$("back").addEventListener("click", () => show(trial - 1));
$("next").addEventListener("click", () => show(trial + 1));
$("again").addEventListener("click", () => show(answers.length - 1));
$("save").addEventListener("click", save);
$("export").addEventListener("click", save);
for (const input of document.querySelectorAll("input[name=side]")) {
  input.checked = input.value === "neurological";
  input.addEventListener("change", () => document.body.classList.toggle("radiological", input.value === "radiological"));
}
addEventListener("keydown", (event) => {
  if ($("reading").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key, onSlider = event.target.type === "range", keys = {
    ArrowUp: () => choose_line(line - 1), ArrowDown: () => choose_line(line + 1), ArrowLeft: () => leaf(-1), ArrowRight: () => leaf(1),
    Enter: () => show(trial + 1), Backspace: () => { if (trial) show(trial - 1); },
    "+": () => { $("bright").value = Number($("bright").value) + 10; picture(); }, "-": () => { $("bright").value = Number($("bright").value) - 10; picture(); },
  };
  if (/^[rg]$/i.test(key) && content.asks === null) { choose_line(structures().length); choose_answer(/r/i.test(key) ? "real" : "generated"); }
  else if (/^\d$/.test(key)) choose_answer(key);
  else if (keys[key] && !(onSlider && key.startsWith("Arrow")) && !(event.target.tagName === "BUTTON" && key === "Enter")) keys[key]();
  else return;
  event.preventDefault();
});
