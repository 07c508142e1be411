"use strict";
const part = name => document.getElementById(name);
const percent = new Intl.NumberFormat("en", {style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1});
let model = null;
let entries = [];
let queue = Promise.resolve();

function made(tag, fields, ...inner) {
  const element = Object.assign(document.createElement(tag), fields);
  element.append(...inner);
  return element;
}

function line({class: name, probability}) {
  const filled = made("div");
  filled.style.width = `${100 * probability}%`;
  const share = made("span", {}, percent.format(probability));
  return made("li", {}, made("span", {}, name), share, made("div", {className: "bar"}, filled));
}

function near({class: name, similarity, image}) {
  const picture = made("img", {src: image, alt: `A training image of ${name}`});
  return made("li", {}, picture, made("span", {}, name), made("span", {}, similarity.toFixed(2)));
}

function add(file) {
  const row = part("rows").insertRow();
  const entry = {file, row, name: file.name || "pasted image", answer: null, error: ""};
  const picture = made("img", {alt: "", loading: "lazy", src: URL.createObjectURL(file)});
  picture.onload = () => URL.revokeObjectURL(picture.src);
  // Browsers do not show HEIC, and other files not at all.
  picture.onerror = () => picture.replaceWith(made("span", {className: "blank"}, "no preview"));
  const head = made("th", {scope: "row"}, picture, made("span", {}, entry.name));
  row.append(head, made("td", {colSpan: 2}, "waiting …"));
  entries.push(entry);
  queue = queue.then(() => row.isConnected && ask(entry));
}

async function ask(entry) {
  const {file, row} = entry;
  if (model && file.size > model.most) entry.error = `the file has more than ${model.limit}; choose a smaller one`;
  else try {
    const response = await fetch("/predict", {method: "POST", body: file});
    const answer = await response.json();
    if (response.ok) entry.answer = answer;
    else entry.error = answer.error;
  } catch (error) {
    entry.error = `no answer (${error.message}); is it a file, and fsbench still running?`;
  }
  row.lastChild.remove();
  row.append(...(entry.error ? [made("td", {colSpan: 2, className: "error"}, entry.error)] : cells(entry.answer)));
  tell();
}

function cells({classes, nearest, rejected}) {
  const about = made("details", {open: entries.length === 1}, made("summary", {}, classes[0].class));
  about.append(made("ol", {className: "classes"}, ...classes.map(line)));
  if (nearest) about.append("Nearest training images", made("ol", {className: "nearest"}, ...nearest.map(near)));
  const mark = rejected ? [made("strong", {}, "rejected")] : [];
  return [made("td", {}, about), made("td", {}, percent.format(classes[0].probability), ...mark)];
}

function tell() {
  const done = entries.filter(entry => entry.answer || entry.error).length;
  const failed = entries.filter(entry => entry.error).length;
  part("status").textContent = `${done} of ${entries.length} answered` + (failed ? `, ${failed} with an error` : "");
  part("result").hidden = entries.length === 0;
}

function field(value) {
  const text = String(value ?? "").replace(/[\u0000-\u001f\u007f-\u009f]/g, " ");
  // No spreadsheet takes it for a formula, also where it separates by semicolons.
  const plain = text.replace(/(^|;)(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])/g, "$1'$2");
  return `"${(typeof value === "string" ? plain : text).replaceAll('"', '""')}"`;
}

function save() {
  const lines = [["image", "class", "probability", "runner_up", "runner_up_probability", "rejected", "error"]];
  for (const {name, answer, error} of entries) {
    const [best = {}, next = {}] = answer ? answer.classes : [];
    lines.push([name, best.class, best.probability, next.class, next.probability, Boolean(answer && answer.rejected), error]);
  }
  const table = new Blob(lines.map(each => `${each.map(field).join(",")}\n`), {type: "text/csv"});
  const link = made("a", {href: URL.createObjectURL(table), download: "predictions.csv"});
  link.click();
  URL.revokeObjectURL(link.href);
}

function classify(files) {
  [...files].forEach(add);
  tell();
}

part("save").addEventListener("click", save);
part("clear").addEventListener("click", () => {
  entries = [];
  part("rows").replaceChildren();
  tell();
  part("file").focus();
});
part("file").addEventListener("change", event => {
  classify(event.target.files);
  event.target.value = "";
});
document.addEventListener("paste", event => classify(event.clipboardData.files));
document.addEventListener("dragover", event => {
  event.preventDefault();
  document.body.classList.add("over");
});
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
  const least = about.reject === null ? "" : `Below ${percent.format(about.reject)} an image is rejected. `;
  part("model").textContent =
    `${about.method} on ${about.backbone}, ${about.classes.length} ${classes}. ${least}` +
    `Files up to ${about.limit}; nothing is stored.`;
}).catch(error => { part("error").textContent = `The server did not answer (${error.message}).`; });
