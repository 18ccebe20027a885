// The page: asks the server for one answer at a time, and shows who wrote it and what it took.

import { get, Refused, setKey, stream } from "/page/api.js";
import { AnswerView, milliseconds, percent } from "/page/answer.js";

const at = (id) => document.getElementById(id);
const view = new AnswerView({
  answer: at("answer"), given: at("given"), written: at("written"), strip: at("strip"), detail: at("detail"),
});
const HINT = "Point at a word, or press ← and → in the answer, to see how strongly the small model asked there.";
let about = null;
let running = null; // the AbortController of the answer that is being written

async function start() {
  try {
    about = await get("/v1/about");
  } catch (error) {
    return failed(error, start);
  }
  view.helper = about.helper;
  at("helper-name").textContent = about.helper ? `: the ${about.helper}` : "";
  at("marked-legend").hidden = at("budget-field").hidden = at("bars").hidden = !about.helper;
  at("budget").value = about.call_budget;
  at("mark").style.setProperty("--at", about.call_budget);
  if (about.call_score !== "call") at("bars-note").textContent += `; it asks by its ${about.call_score}`;
  showBudget();
  at("examples").replaceChildren(...about.prompts.map(example));
  at("examples").hidden = !about.prompts.length;
  at("origin").replaceChildren(...origin());
  document.title = `Lacewing: ${about.model}`;
}

function example(prompt) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = prompt;
  button.addEventListener("click", () => {
    at("prompt").value = prompt;
    at("kind").value = "/v1/completions";
    write();
  });
  return button;
}

function origin() {
  const model = document.createElement(about.address ? "a" : "span");
  if (about.address) model.href = about.address;
  model.textContent = about.version || about.name;
  const rest = [
    `served as ${about.model}`,
    `${about.parameters.toLocaleString("en")} parameters`,
    about.bundle && `bundle ${about.bundle.slice(0, 12)}`,
    `data ${about.data.slice(0, 12)}${about.sources.length ? ` (${about.sources.join(", ")})` : ""}`,
  ];
  return [model, ...rest.filter(Boolean).map(item)];
}

function item(text) {
  const span = document.createElement("span");
  span.textContent = text;
  return span;
}

function showBudget() {
  const share = at("budget").valueAsNumber;
  at("budget-value").textContent = percent(share);
  at("budget").setAttribute("aria-valuetext", `${percent(share)} of the decisions`);
  const does = share ? `At most ${mostCalls()} calls.` : "It writes alone.";
  at("budget-note").textContent = `${does} The mark: ${percent(about.call_budget)}, as served.`;
}

function mostCalls() {
  return Math.floor(at("budget").valueAsNumber * at("max-tokens").valueAsNumber + 1e-9);
}

function requested(prompt) {
  const chat = at("kind").value !== "/v1/completions";
  return {
    ...(chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
    max_tokens: at("max-tokens").valueAsNumber,
    temperature: at("temperature").valueAsNumber,
    stream: true,
    stream_options: { include_usage: true },
    ...(about.helper && { call_budget: at("budget").valueAsNumber, pieces: true }),
  };
}

async function write() {
  if (!about) return start(); // the key is still missing, or the server was away
  if (!at("form").checkValidity()) at("settings").open = true; // the browser can point only at what is seen
  if (!at("form").reportValidity()) return;
  running?.abort();
  const mine = (running = new AbortController());
  const prompt = at("prompt").value;
  const allowed = `the budget of ${percent(at("budget").valueAsNumber)} allows ${mostCalls()}`;
  const counts = { allowed, tokens: 0, calls: 0, decisions: 0, helper: 0, waited: 0, began: performance.now() };
  const chat = at("kind").value !== "/v1/completions";
  at("answer").classList.add("used");
  view.reset(chat ? `${prompt}\n` : prompt);
  notice("");
  busy(true);
  // On a phone the answer is below: bring it in view together with the slider.
  if (at("answer").getBoundingClientRect().top > 0.7 * innerHeight) at("budget-field").scrollIntoView();
  try {
    await stream(at("kind").value, requested(prompt), mine.signal, (chunk) => take(chunk, counts));
    if (view.pieces.length && view.selected < 0) at("detail").textContent = HINT;
  } catch (error) {
    if (error.name === "AbortError") {
      if (mine === running) notice("Stopped.");
    } else failed(error, write);
  } finally {
    if (mine === running) {
      counts.ended = performance.now();
      figures(counts);
      busy(false);
      running = null;
    }
  }
}

function take(chunk, counts) {
  const choice = chunk.choices[0];
  if (choice) {
    counts.first ??= performance.now();
    counts.finish = choice.finish_reason;
    if (!about.helper) {
      const text = choice.text ?? choice.delta.content ?? "";
      counts.tokens += text ? 1 : 0;
      view.addPlain(text);
    }
    for (const piece of choice.pieces ?? []) {
      view.add(piece);
      counts.decisions += 1;
      counts.tokens += piece.tokens;
      counts.calls += piece.call !== "none";
      if (piece.author === "helper") counts.helper += piece.tokens;
      counts.waited += piece.helper_seconds;
    }
  }
  if (chunk.cascade?.degraded) notice("The helper did not answer every call. There the small model went on alone.");
  if (chunk.usage) counts.usage = chunk.usage;
  figures(counts);
}

/** What the answer took: counted from the stream while it runs, by the server once it has ended. */
function figures(counts) {
  const { usage, began, first } = counts;
  const end = counts.ended ?? performance.now();
  const details = usage?.completion_tokens_details;
  const tokens = usage?.completion_tokens ?? counts.tokens;
  const calls = details?.calls ?? counts.calls;
  const decisions = details?.decisions ?? counts.decisions;
  const helper = details?.helper_tokens ?? counts.helper;
  const rows = [["tokens", tokens, counts.finish === "length" ? "as many as allowed" : undefined]];
  if (about.helper) {
    rows.push(["of these by the helper", helper]);
    const share = decisions ? percent(calls / decisions) : "–";
    rows.push(["calls", calls, `${share} of ${decisions} decisions; ${counts.allowed}`]);
    if (about.price_per_call) rows.push(["cost", (calls * about.price_per_call).toPrecision(3)]);
    rows.push(["waited for the helper", milliseconds(counts.waited)]);
  }
  rows.push(["to the first token", first ? milliseconds((first - began) / 1000) : "–"]);
  const seconds = (end - began) / 1000;
  rows.push(["in all", milliseconds(seconds), `${(tokens / seconds).toFixed(0)} tokens per second`]);
  at("figures").replaceChildren(...rows.map(figure));
}

function figure([name, value, note]) {
  const box = document.createElement("div");
  for (const [tag, text] of [["dt", name], ["dd", value], ["dd", note]]) {
    if (text === undefined) continue;
    const element = document.createElement(tag);
    element.textContent = text;
    box.append(element);
  }
  return box;
}

function busy(is) {
  at("written").setAttribute("aria-busy", is); // read out once, when it is whole
  at("answer").classList.toggle("writing", is);
  at("stop").disabled = !is;
}

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

/** Says in words what went wrong; asks for the key where that is it, and then does `again`. */
function failed(error, again) {
  if (!(error instanceof Refused)) throw error;
  notice(error.message);
  if (error.status !== 401) return;
  at("key-form").onsubmit = () => {
    setKey(at("key").value);
    at("key").value = "";
    notice("");
    again();
  };
  at("key-dialog").showModal();
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
at("stop").addEventListener("click", () => running?.abort());
at("budget").addEventListener("input", () => about && showBudget());
at("max-tokens").addEventListener("input", () => about && showBudget());
// The point of the slider is to see other words become marked, so it writes again.
at("budget").addEventListener("change", () => at("prompt").value && view.pieces.length && write());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write();
});
start();
