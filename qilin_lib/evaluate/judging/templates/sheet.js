const sheet = JSON.parse(document.getElementById("sheet").textContent);
const at = (id) => document.getElementById(id);
const key = "qilin-sheet-" + sheet.sheet;
// Tells apart the files of people who give no name, or the same.
const person = Math.random().toString(36).slice(2, 10);
let state = { verdicts: {}, judge: "", language: "zh", place: 0, person };
try { state = { ...state, ...JSON.parse(localStorage.getItem(key) || "{}") }; } catch { /* a private window keeps nothing */ }

function keep() { try { localStorage.setItem(key, JSON.stringify(state)); } catch { /* the export still works */ } }

function show() {
  const game = sheet.games[state.place];
  document.documentElement.lang = state.language;
  for (const element of document.querySelectorAll("[data-zh]")) element.textContent = element.dataset[state.language];
  at("language").textContent = state.language === "zh" ? "English" : "中文";
  at("criteria").textContent = sheet.criteria.join(state.language === "zh" ? "；" : "; ");
  at("number").textContent = `${state.place + 1} / ${sheet.games.length}`;
  for (const part of ["question", "first", "second"]) at(part).textContent = game[part];
  for (const button of document.querySelectorAll("[data-verdict]"))
    button.classList.toggle("chosen", state.verdicts[game.id] === button.dataset.verdict);
  at("done").textContent = `${Object.keys(state.verdicts).length} / ${sheet.games.length}`;
  at("judge").value = state.judge;
  keep();
}

function turn(by) { state.place = Math.min(sheet.games.length - 1, Math.max(0, state.place + by)); show(); }
function decide(verdict) { state.verdicts[sheet.games[state.place].id] = verdict; turn(1); }

for (const button of document.querySelectorAll("[data-verdict]")) button.onclick = () => decide(button.dataset.verdict);
at("before").onclick = () => turn(-1);
at("next").onclick = () => turn(1);
at("language").onclick = () => { state.language = state.language === "zh" ? "en" : "zh"; show(); };
at("judge").oninput = (event) => { state.judge = event.target.value; keep(); };
at("export").onclick = () => {
  const text = JSON.stringify({ sheet: sheet.sheet, judge: state.judge, verdicts: state.verdicts }, null, 1);
  const link = document.createElement("a");
  link.href = "data:application/json;charset=utf-8," + encodeURIComponent(text);
  const parts = ["judgments", sheet.sheet, state.judge.replace(/[^\p{L}\p{N}]+/gu, "-"), state.person];
  link.download = parts.filter(Boolean).join("-") + ".json";
  link.click();
};
document.onkeydown = (event) => {
  if (event.target.tagName === "INPUT") return;
  const keys = { 1: "first", 2: "second", 0: "tie" };
  if (event.key in keys) decide(keys[event.key]);
  if (event.key === "ArrowLeft") turn(-1);
  if (event.key === "ArrowRight") turn(1);
};
show();
