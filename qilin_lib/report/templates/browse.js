// The search over a run's records: opens the packed data beside it (see browse.py) and shows what matches, item by item.
// Every text is written by textContent: nothing that a model said is ever read as HTML. Nothing is fetched.
(async () => {
"use strict";
const PAGE = 5, ANY = "all";
const unopened = () => document.querySelector(".qm-browse:not([data-opened])");
// JupyterLab runs the script before the cell's output stands in the document.
for (let waited = 0; !unopened() && waited < 100; waited++) await new Promise(done => setTimeout(done, 50));
const root = unopened();
if (!root) return;
root.dataset.opened = "";
const part = name => root.querySelector(`[data-part="${name}"]`);
// As errors.visible: what a page would obey is spelled out.
const UNSEEN =
  /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)/gu;
const spelled = letter => {
  const code = letter.charCodeAt(0), hex = size => code.toString(16).padStart(size, "0");
  return letter === "\r" ? "\\r" : code < 256 ? `\\x${hex(2)}` : `\\u${hex(4)}`;
};
const clean = text => String(text).replace(UNSEEN, spelled);
const count = list => list.length.toLocaleString("en");
const make = (tag, kind, ...inside) => {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...inside.map(one => typeof one === "string" ? clean(one) : one));
  return node;
};

async function unpack(data) {
  const bytes = Uint8Array.from(atob(data.trim()), letter => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(plain).text());
}

const rowOf = ({task, model, record}) => ({task, model, record, subject: record.subject || "",
  verdict: verdict(record), item: JSON.stringify([task, record.id]), searched: searched(record)});

function verdict(record) {
  if (!("prediction" in record)) return "";
  if (!record.prediction) return "unparsed";
  return record.correct === true ? "right" : record.correct === false ? "wrong" : "";
}

function searched(record) {
  const parts = ["id", "subject", "output", "reference", "explanation", "prompt"].map(name => record[name] || "");
  return [...parts, ...Object.values(record.groups || {})].join("\n").toLowerCase();
}

function hits(text, terms) {
  const found = document.createDocumentFragment();
  if (!terms.length) { found.append(clean(text)); return found; }
  const either = terms.map(term => term.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|");
  const pieces = text.split(new RegExp(`(${either})`, "i"));
  pieces.forEach((piece, n) => found.append(n % 2 ? make("mark", "", piece) : clean(piece)));
  return found;
}

function box(title, aside, ...inside) {
  const head = make("div", "title", title, make("span", "", aside)), text = make("div", "text", ...inside);
  text.lang = "zh";
  if (!text.textContent.trim()) text.append(make("span", "empty", "(empty)"));
  return make("div", "box", head, text);
}

const folded = (title, text) => make("details", "", make("summary", "", title), text);

function reading(record) {
  const lines = "prediction" in record ? [`Read as: ${record.prediction || "unparsed"}`] : [];
  if (record.scores) lines.push("log p: " + Object.entries(record.scores)
    .map(([letter, value]) => `${letter} ${typeof value === "number" ? value.toFixed(2) : value}`).join("  "));
  const extra = record.explanation;
  return extra && !(record.output || "").includes(extra) ? [extra, ...lines] : lines;
}

function answer(row, terms) {
  const record = row.record, lines = [record.output, ...reading(record)].filter(Boolean);
  const inside = lines.flatMap((line, n) => n ? ["\n", hits(line, terms)] : [hits(line, terms)]);
  const notes = [row.verdict, record.truncated ? "question cut" : ""].filter(Boolean).join(", ");
  const prompt = record.prompt_beginning + record.prompt;
  const passages = (record.passages || []).map((one, n) => `[${n + 1}] ${one.origin}, ${one.score}: ${one.text}`);
  const beside = passages.length ? [folded("passages", passages.join("\n"))] : [];
  return box(row.model, notes, ...inside, ...beside, folded(`prompt, template ${record.template}`, prompt));
}

function card(rows, terms) {
  const first = rows[0].record, gold = first.gold ? `Answer: ${first.gold}\n` : "";
  const groups = Object.entries(first.groups || {}).map(([name, value]) => `${name}: ${value}`);
  const about = [first.subject, ...groups].filter(Boolean).join(", ");
  const shots = first.prompt_beginning ? [folded(`${first.shots} examples before it`, first.prompt_beginning)] : [];
  return make("article", "qm-case",
    make("div", "head", `${rows[0].task}: ${first.id}`, make("span", "", about)),
    box("Question", "", ...shots, hits(first.prompt, terms)),
    box("Reference", "", hits(gold + (first.reference || ""), terms)),
    make("div", "answers", ...rows.map(row => answer(row, terms))));
}

function byItem(rows) {
  const items = new Map();
  for (const row of rows) {
    if (!items.has(row.item)) items.set(row.item, []);
    items.get(row.item).push(row);
  }
  return [...items.values()];
}

function start(rows) {
  const menus = ["task", "model", "verdict", "subject"];
  let page = 0;
  for (const name of menus) {
    const values = [...new Set(rows.map(row => row[name]))].filter(Boolean);
    if (name === "subject") values.sort();
    part(name).append(...[ANY, ...values].map(value => new Option(clean(value), value)));
    part(name).closest("label").hidden = values.length < 2;
  }
  const arrows = ["top", "bottom"].map(place => {
    const back = make("button", "", "Previous page"), on = make("button", "", "Next page"), told = make("span", "");
    for (const [button, step] of [[back, -1], [on, 1]]) {
      button.type = "button";
      button.addEventListener("click", () => { page += step; show(); part("status").scrollIntoView(); });
    }
    part(place).append(back, on, told);
    return {back, on, told, all: part(place)};
  });
  function show() {
    const terms = part("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = menus.map(name => [name, part(name).value]).filter(([, value]) => value !== ANY);
    const found = rows.filter(row => terms.every(term => row.searched.includes(term))
      && wanted.every(([name, value]) => row[name] === value));
    const items = byItem(found), pages = Math.max(1, Math.ceil(items.length / PAGE));
    page = Math.min(page, pages - 1);
    part("status").textContent = `${count(found)} of ${count(rows)} records match, in ${count(items)} items.`;
    part("results").replaceChildren(...items.slice(page * PAGE, (page + 1) * PAGE).map(item => card(item, terms)));
    for (const {back, on, told, all} of arrows) {
      told.textContent = `page ${page + 1} of ${pages}`;
      all.hidden = pages < 2;
      back.disabled = page === 0;
      on.disabled = page === pages - 1;
    }
  }
  const anew = () => { page = 0; show(); };
  part("form").addEventListener("submit", event => event.preventDefault());
  part("words").addEventListener("input", event => { if (!event.isComposing) anew(); });
  part("words").addEventListener("compositionend", anew);
  for (const name of menus) part(name).addEventListener("change", anew);
  show();
  part("form").hidden = false;
}

try {
  const items = byItem((await unpack(part("data").textContent)).map(rowOf));
  start(items.flat());
} catch (problem) {
  part("status").textContent = `The records in this page could not be opened (${problem}). The files above hold them.`;
}
})();
