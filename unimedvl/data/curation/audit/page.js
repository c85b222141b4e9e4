"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const place = "unimedvl-audit:" + data.audit;
const byId = new Map(data.samples.map((sample, number) => [sample.id, number]));
const $ = (id) => document.getElementById(id);

// What is kept: a rating is a whole number, or null where the dimension does not apply; absent ones are not given yet.
let state = { rater: "", ratings: {} };
let current = 0; // sample that is shown
let active = 0; // dimension that keys rate
let losable = false; // ratings that neither a file nor the browser holds

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function tell(text, bad = false) {
  $("message").textContent = text;
  $("message").classList.toggle("bad", bad);
}

// ---- ratings

function entry(number, create = false) {
  const id = data.samples[number].id;
  if (create) state.ratings[id] ??= { scores: {}, comment: "" };
  return state.ratings[id] ?? { scores: {}, comment: "" };
}

const missing = (number) => data.dimensions.findIndex((dimension) => entry(number).scores[dimension.key] === undefined);
const isRated = (number) => missing(number) < 0;

function rate(index, value) {
  const dimension = data.dimensions[index];
  if (value !== null && value !== undefined && value > dimension.highest) {
    tell(`${dimension.label} takes 0 to ${dimension.highest}.`, true);
    return false;
  }
  const scores = entry(current, true).scores;
  if (value === undefined) delete scores[dimension.key];
  else scores[dimension.key] = value;
  tell("");
  keep();
  showMarks();
  return true;
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
    $("kept").textContent = "Kept in this browser as you go. Save writes the file that counts.";
  } catch {
    losable = true;
    $("kept").textContent = "This browser keeps nothing between visits: save before you close the page.";
  }
}

// ---- showing

function build() {
  data.dimensions.forEach((dimension, index) => {
    const values = [...Array(dimension.highest + 1).keys(), null];
    const marks = values.map((value) => {
      const name = value === null ? "not applicable" : String(value);
      const input = make("input", { type: "radio", name: dimension.key, value: name });
      input.addEventListener("change", () => rate(index, value));
      return make("label", {}, input, make("span", { textContent: value === null ? "n/a" : name, title: name }));
    });
    const name = make("span", { id: "name-" + dimension.key, textContent: dimension.label });
    const ends = make("span", { className: "ends", textContent: dimension.ends });
    const hint = make("span", { className: "hint", id: "hint-" + dimension.key }, dimension.hint + " ", ends);
    const field = make("fieldset", {}, make("div", {}, name, hint), make("div", { className: "marks" }, ...marks));
    field.setAttribute("role", "radiogroup");
    field.setAttribute("aria-labelledby", name.id);
    field.setAttribute("aria-describedby", hint.id);
    field.addEventListener("focusin", () => mark(index));
    $("dimensions").append(field);
  });
}

function mark(index) {
  active = index;
  [...$("dimensions").children].forEach((field, number) => field.classList.toggle("active", number === index));
}

function radios(index) {
  return [...$("dimensions").children[index].querySelectorAll("input")];
}

function focusOn(index) {
  const choices = radios(index);
  (choices.find((input) => input.checked) ?? choices[0]).focus();
}

function showMarks() {
  const scores = entry(current).scores;
  data.dimensions.forEach((dimension, index) => {
    const value = scores[dimension.key];
    radios(index).forEach((input) => {
      input.checked = value !== undefined && input.value === (value === null ? "not applicable" : String(value));
    });
  });
  const done = data.samples.filter((_, number) => isRated(number)).length;
  $("bar").max = data.samples.length;
  $("bar").value = done;
  $("rated").textContent = `${done} of ${data.samples.length} rated`;
}

function show(number) {
  current = Math.min(Math.max(number, 0), data.samples.length - 1);
  const sample = data.samples[current];
  $("place").textContent = `${current + 1} of ${data.samples.length}`;
  $("modality").textContent = sample.modality || "none";
  for (const name of ["task", "question", "text"]) {
    $(name).textContent = sample[name];
    if (name !== "task") $(name).parentElement.hidden = !sample[name];
  }
  $("steps").textContent = sample.steps.join("; ");
  $("steps").parentElement.hidden = !sample.steps.length;
  $("flags").textContent = sample.flags.join("; ");
  $("flags").parentElement.hidden = !sample.flags.length;
  $("pictures").replaceChildren(...sample.images.map(picture));
  $("comment").value = entry(current).comment;
  $("previous").disabled = current === 0;
  $("next").disabled = current === data.samples.length - 1;
  showMarks();
  focusOn(Math.max(missing(current), 0));
  window.scrollTo(0, 0);
}

function picture({ label, source }) {
  const button = make("button", { type: "button", title: "larger (z)" }, make("img", { src: source, alt: label }));
  button.addEventListener("click", () => enlarge(label, source));
  return make("figure", {}, make("figcaption", { textContent: label }), button);
}

function enlarge(label, source) {
  $("zoom").querySelector("div").replaceChildren(make("img", { src: source, alt: label }));
  $("zoom").showModal();
}

function toFirstUnrated() {
  const number = data.samples.findIndex((_, number) => !isRated(number));
  if (number < 0) tell("Every sample is rated. Save the file and send it back.");
  else {
    tell("");
    show(number);
  }
}

function changeTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

// ---- files

function save() {
  if (!state.rater.trim()) {
    tell("Nothing was saved: type your name first.", true);
    $("rater").focus();
    return;
  }
  const content = { format: data.format, audit: data.audit, rater: state.rater.trim(), saved: new Date().toISOString(),
    ratings: state.ratings };
  const address = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1) + "\n"], { type: "application/json" }));
  const word = content.rater.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "") || "rater";
  const name = `audit-${data.audit}-${word}.json`;
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
  losable = false;
  tell(`Saved as ${name}: ${Object.keys(state.ratings).length} samples.`);
}

// Throws with what is wrong with a file of ratings.
function checked(content) {
  if (content?.format !== data.format) throw new Error("it holds no ratings of an audit");
  if (content.audit !== data.audit) throw new Error("it belongs to another corpus or sample");
  const ratings = {};
  for (const [id, { scores = {}, comment = "" }] of Object.entries(content.ratings ?? {})) {
    if (!byId.has(id)) throw new Error(`no sample here is called ${id}`);
    for (const [key, value] of Object.entries(scores)) {
      const dimension = data.dimensions.find((each) => each.key === key);
      const good = value === null || (Number.isInteger(value) && value >= 0 && value <= dimension?.highest);
      if (!dimension || !good) throw new Error(`${key} of ${id} cannot be ${JSON.stringify(value)}`);
    }
    ratings[id] = { scores: { ...scores }, comment: String(comment) };
  }
  return { rater: String(content.rater ?? ""), ratings };
}

async function load(file) {
  try {
    const found = checked(JSON.parse(await file.text()));
    const count = Object.keys(found.ratings).length;
    const here = Object.keys(state.ratings).length;
    if (here && !confirm(`Replace the ratings of ${here} samples here by those of ${count} in the file?`)) return;
    state = found;
    keep();
    $("rater").value = state.rater;
    toFirstUnrated();
    showMarks();
    $("comment").value = entry(current).comment;
    tell(`Loaded ${count} samples of ${state.rater || "an unnamed rater"}.`);
  } catch (error) {
    tell(`${file.name} was not loaded: ${error.message}.`, true);
  }
}

// ---- keys

const plain = {
  ArrowRight: () => show(current + 1),
  ArrowLeft: () => show(current - 1),
  j: () => show(current + 1),
  k: () => show(current - 1),
  u: toFirstUnrated,
  c: () => $("comment").focus(),
  n: () => give(null),
  Backspace: () => give(undefined),
  Delete: () => give(undefined),
  t: () => $("theme").click(),
  z: () => document.querySelector("figure button")?.click(),
  "?": () => { $("help").open = !$("help").open; },
};

function give(value) {
  const given = rate(active, value);
  const last = active === data.dimensions.length - 1;
  focusOn(given && value !== undefined && $("step").checked && !last ? active + 1 : active);
}

function typing(element) {
  return element.matches("textarea, input:not([type=radio]):not([type=checkbox])");
}

document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s") {
    event.preventDefault();
    save();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || $("zoom").open) return;
  if (typing(event.target)) {
    if (event.key === "Escape") focusOn(active);
    return;
  }
  const act = /^[0-9]$/.test(event.key) ? () => give(Number(event.key)) : plain[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

$("previous").addEventListener("click", () => show(current - 1));
$("next").addEventListener("click", () => show(current + 1));
$("unrated").addEventListener("click", toFirstUnrated);
$("save").addEventListener("click", save);
$("load").addEventListener("click", () => $("file").click());
$("theme").addEventListener("click", () => changeTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  if (file) await load(file);
  $("file").value = ""; // the same file can be chosen again
});
$("rater").addEventListener("input", () => { state.rater = $("rater").value; keep(); });
$("comment").addEventListener("input", () => { entry(current, true).comment = $("comment").value; keep(); });
$("form").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("beforeunload", (event) => { if (losable) event.preventDefault(); });

// ---- start

build();
try {
  const kept = localStorage.getItem(place);
  if (kept) state = checked({ format: data.format, audit: data.audit, ...JSON.parse(kept) });
} catch (error) {
  tell(`What this browser kept cannot be used: ${error.message}.`, true);
}
$("rater").value = state.rater;
const first = data.samples.findIndex((_, number) => !isRated(number));
show(Math.max(first, 0));
