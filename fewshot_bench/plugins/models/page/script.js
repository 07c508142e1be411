"use strict";
const part = name => document.getElementById(name);
const percent = new Intl.NumberFormat("en", {style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1});
let model = null;
let asked = null;

function made(tag, text, name) {
  const element = document.createElement(tag);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

function say(status, error = "") {
  part("status").textContent = status;
  part("error").textContent = error;
}

function line({class: name, probability}) {
  const item = document.createElement("li");
  const bar = made("div", "", "bar");
  const filled = document.createElement("div");
  filled.style.width = `${100 * probability}%`;
  bar.setAttribute("aria-hidden", "true");
  bar.append(filled);
  item.append(made("span", name), made("span", percent.format(probability)), bar);
  return item;
}

function near({class: name, similarity, image}) {
  const item = document.createElement("li");
  const picture = document.createElement("img");
  picture.src = image;
  picture.alt = `A training image of ${name}`;
  item.append(picture, made("span", name), made("span", similarity.toFixed(2)));
  return item;
}

function show(answer, file) {
  const [first, second] = answer.classes;
  part("verdict").textContent = answer.rejected ? "None of these" : first.class;
  const next = second ? `Runner-up: ${second.class}, ${percent.format(second.probability)}.` : "";
  part("about").textContent = answer.rejected
    ? `The best, ${first.class}, has ${percent.format(first.probability)}; this model asks for ${percent.format(model.reject)}.`
    : next;
  part("classes").replaceChildren(...answer.classes.map(line));
  const nearest = answer.nearest || [];
  part("nearest").replaceChildren(...nearest.map(near));
  part("near").hidden = nearest.length === 0;
  const preview = part("preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = false;
  preview.alt = file.name ? `The image ${file.name}` : "The image";
  preview.src = URL.createObjectURL(file);
  part("result").hidden = false;
  say(file.name || "");
}

async function classify(files) {
  const file = files[0];
  if (!file) return;
  if (asked) asked.abort();
  const mine = asked = new AbortController();
  part("result").hidden = true;
  if (model && file.size > model.most) {
    say("", `The file has more than ${model.limit}; choose a smaller one.`);
    return;
  }
  say(`${file.name || "Image"}: asking …`);
  try {
    const response = await fetch("/predict", {method: "POST", body: file, signal: mine.signal});
    const answer = await response.json();
    if (asked !== mine) return;
    if (response.ok) show(answer, file);
    else say("", answer.error[0].toUpperCase() + answer.error.slice(1));
  } catch (error) {
    if (asked === mine) say("", `The server did not answer (${error.message}). Is fsbench still running?`);
  }
}

part("preview").addEventListener("error", () => { part("preview").hidden = true; });
part("file").addEventListener("change", event => {
  classify([...event.target.files]);
  event.target.value = "";
});
document.addEventListener("paste", event => classify(event.clipboardData.files));
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, event => {
    event.preventDefault();
    document.body.classList.add("over");
  });
}
document.addEventListener("dragleave", event => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("over");
  classify(event.dataTransfer.files);
});

fetch("/model").then(response => response.json()).then(about => {
  model = about;
  const classes = about.classes.length === 1 ? "class" : "classes";
  part("model").textContent =
    `${about.method} on ${about.backbone}, ${about.classes.length} ${classes}. ` +
    `Files up to ${about.limit}; nothing is stored.`;
}).catch(error => say("", `The server did not answer (${error.message}).`));
