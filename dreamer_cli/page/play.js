"use strict";
// Orders go out as JSON; views come in as one message each: length, JSON, bytes of pictures. See play_server.py.

const $ = (id) => document.getElementById(id);
const VIEWS = ["both", "game", "dream"];
const NAMES = { entropy: "entropy, nats" };
let socket, layout, now, sliders = {}, selectors = {}, held = new Set(), pushed = null;

function order(name, more = {}) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ do: name, ...more }));
}

function connect() {
  socket = new WebSocket(`ws://${location.host}${location.pathname}ws`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { $("state").textContent = "connected"; };
  socket.onmessage = (message) => {
    if (typeof message.data === "string") {
      build(JSON.parse(message.data));
      last = "";  // whatever was held before is held no more
      if (meant() !== null) hold(false);
    }
    else show(message.data);
  };
  socket.onclose = () => {
    $("state").textContent = "not connected: trying again";
    setTimeout(connect, 1000);
  };
}

// ── what does not change ─────────────────────────────────────────────────────────────────────────────

function build(found) {
  layout = found;
  document.title = found.title;
  $("title").textContent = found.title;
  $("replayed").disabled = !found.can.replayed;
  $("restart").disabled = !found.can.game;
  const actions = $("actions");
  actions.replaceChildren();
  for (const control of found.controls) {
    const button = document.createElement("button");
    button.textContent = control.label;
    const keys = document.createElement("small");
    keys.textContent = control.keys.map(keyName).join(" ") || (control.action === found.idle || control.label === found.idle ? "no key" : "");
    button.append(keys);
    button.dataset.action = JSON.stringify(control.action);
    button.dataset.label = control.label;
    button.onpointerdown = (event) => { button.setPointerCapture(event.pointerId); pushed = control.action; hold(true); };
    button.onpointerup = button.onpointercancel = () => { pushed = null; hold(false); };
    button.onclick = (event) => { if (event.detail === 0) tap(control.action); };  // by Enter or a screen reader
    actions.append(button);
  }
  sliders = {};
  for (const slider of found.sliders) {
    const label = document.createElement("label");
    label.className = "slider";
    const input = document.createElement("input");
    const shown = document.createElement("output");
    const name = found.sliders.filter((one) => one.key === slider.key).length > 1 ? `${slider.key}[${slider.place}]` : slider.key;
    input.type = "range";
    Object.assign(input, { min: slider.low, max: slider.high, step: (slider.high - slider.low) / 200 });
    input.value = Math.min(slider.high, Math.max(slider.low, 0));
    input.setAttribute("aria-label", name);
    shown.textContent = Number(input.value).toFixed(2);
    input.oninput = () => { shown.textContent = Number(input.value).toFixed(2); hold(now.running); };
    input.onchange = () => hold(true);
    input.ondblclick = () => { input.value = Math.min(slider.high, Math.max(slider.low, 0)); input.oninput(); };
    label.append(`${name} (${keyName(slider.less)} ${keyName(slider.more)})`, input, shown);
    actions.append(label);
    (sliders[slider.key] ||= [])[slider.place] = { ...slider, input, shown };
  }
  selectors = {};
  for (const selector of found.selectors) {
    const label = document.createElement("label");
    const input = document.createElement("select");
    const several = found.selectors.filter((one) => one.key === selector.key).length > 1;
    selector.labels.forEach((name, i) => input.add(new Option(name, selector.values[i])));
    input.selectedIndex = selector.at;
    input.onchange = () => { hold(true); input.blur(); };
    label.append(several ? `${selector.key}[${selector.place}] ` : `${selector.key} `, input);
    actions.append(label);
    (selectors[selector.key] ||= [])[selector.place] = input;
  }
  const curves = $("curves");
  curves.replaceChildren();
  for (const name of found.numbers) {
    const box = document.createElement("div");
    box.className = "curve";
    box.innerHTML = `<header><span></span><output></output></header><div class="plot"><svg viewBox="0 0 60 60" preserveAspectRatio="none"><path class="real"/><path class="dreamt"/><line y1="0" y2="60"/></svg><small class="high"></small><small class="low"></small></div>`;
    box.querySelector("span").textContent = NAMES[name] || name;
    box.id = `curve-${name}`;
    curves.append(box);
  }
}

function keyName(key) {
  return { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Space: "space" }[key] || key;
}

// ── what is shown ────────────────────────────────────────────────────────────────────────────────────

function show(buffer) {
  const size = new DataView(buffer).getUint32(0);
  now = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  let offset = 4 + size;
  const there = {};
  for (const picture of now.pictures) {
    const bytes = new Uint8Array(buffer, offset, picture.height * picture.width * 3);
    offset += bytes.length;
    there[picture.name] = true;
    paint($(`${picture.name}-canvas`), picture, bytes);
  }
  const both = now.view === "both";
  $("game").hidden = !(both || now.view === "game") || !(there.game || now.has_game);
  $("dream").hidden = !(both || now.view === "dream") || !there.dream;
  $("game").classList.toggle("over", now.over || !now.has_game);
  $("dream").classList.toggle("over", now.dream_over);
  const told = (name, over) => `· return ${number(now.returns[name])}${over ? " · over" : ""}`;
  $("game-note").textContent = now.has_game ? told("game", now.over) : "· not there";
  $("dream-note").textContent = told("dream", now.dream_over);
  $("timeline").max = now.length - 1;
  $("timeline").value = now.at;
  $("moment").textContent = `moment ${now.at} of ${now.length - 1}, line ${now.line + 1} of ${now.lines}`;
  $("said").textContent = now.said;
  $("run").textContent = now.running ? "Pause" : "Play";
  $("run").classList.toggle("on", now.running);
  $("wheel").textContent = now.wheel === "human" ? "You steer" : "The agent steers";
  $("wheel").classList.toggle("on", now.wheel === "human");
  $("view").textContent = { both: "Game and dream", game: "Game", dream: "Dream" }[now.view];
  $("line").disabled = now.lines < 2;
  $("wake").disabled = !now.has_game;
  if (document.activeElement !== $("fps")) $("fps").value = now.fps;
  $("fps-shown").textContent = `${now.fps}/s`;
  for (const button of $("actions").querySelectorAll("button")) {
    const done = JSON.stringify(now.action);
    button.classList.toggle("on", done !== "null" && (done === button.dataset.action || now.action === button.dataset.label));
  }
  vectors(now.vectors, there);
  for (const name of layout.numbers) curve(name);
}

function paint(canvas, picture, bytes) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  const context = canvas.getContext("2d");
  const image = context.createImageData(picture.width, picture.height);
  for (let i = 0, j = 0; i < bytes.length; i += 3, j += 4) {
    image.data[j] = bytes[i];
    image.data[j + 1] = bytes[i + 1];
    image.data[j + 2] = bytes[i + 2];
    image.data[j + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function number(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) < 100 ? value.toFixed(2).replace(/^-0.00$/, "0.00") : value.toPrecision(4);
}

function vectors(rows, there) {
  const wanted = rows.flatMap((row) => row.dream.map((dream, i) => ({
    name: row.dream.length > 1 ? `${row.key}[${i}]` : row.key, dream, truth: row.truth ? row.truth[i] : null,
  })));
  $("vectors-key").hidden = !wanted.length;
  $("vectors-dream").textContent = there.dream ? "" : ` · return ${number(now.returns.dream)}${now.dream_over ? " · over" : ""}`;
  const place = $("vectors");
  while (place.children.length > wanted.length) place.lastChild.remove();
  while (place.children.length < wanted.length) {
    const row = document.createElement("div");
    row.className = "vector";
    row.innerHTML = `<span></span><svg viewBox="-1 0 2 14" preserveAspectRatio="none"><rect class="truth" y="1" height="6"/><rect class="dreamt" y="7" height="6"/></svg><span class="numbers"></span>`;
    row.reach = 1e-6;
    place.append(row);
  }
  wanted.forEach((one, i) => {
    const row = place.children[i];
    row.reach = Math.max(row.reach, Math.abs(one.dream || 0), Math.abs(one.truth || 0));
    row.firstChild.textContent = one.name;
    bar(row.querySelector(".truth"), now.view === "dream" ? null : one.truth, row.reach);
    bar(row.querySelector(".dreamt"), now.view === "game" ? null : one.dream, row.reach);
    row.lastChild.textContent = `${number(one.truth)} · ${number(one.dream)}`;
  });
}

function bar(rect, value, reach) {
  const share = value === null ? 0 : value / reach;
  rect.setAttribute("x", Math.min(0, share));
  rect.setAttribute("width", Math.abs(share));
}

function curve(name) {
  const box = $(`curve-${name}`);
  const values = now.curves[name];
  const real = name === "reward" ? now.curves.real_reward : [];
  const known = [...values, ...real].filter((value) => value !== null);
  const low = Math.min(0, ...known), high = Math.max(low + 0.1, ...known);
  const draw = (points) => points.map((value, i) => value === null ? "" :
    `${i && points[i - 1] !== null ? "L" : "M"}${i} ${(58 - 56 * (value - low) / (high - low)).toFixed(2)}`).join("");
  box.querySelector(".dreamt").setAttribute("d", draw(values));
  box.querySelector(".real").setAttribute("d", draw(real));
  box.querySelector("svg").setAttribute("viewBox", `0 0 ${Math.max(60, values.length - 1)} 60`);
  box.querySelector(".high").textContent = number(high);
  box.querySelector(".low").textContent = number(low);
  const cursor = box.querySelector("line");
  cursor.setAttribute("x1", now.at - now.first);
  cursor.setAttribute("x2", now.at - now.first);
  box.querySelector("output").textContent = name === "reward" && now.numbers.real_reward !== null
    ? `${number(now.numbers[name])} (real ${number(now.numbers.real_reward)})` : number(now.numbers[name]);
}

// ── what a person does ───────────────────────────────────────────────────────────────────────────────

function meant() {
  if (pushed !== null) return pushed;
  let best = null;
  for (const control of layout.controls) {
    if (control.keys.length && control.keys.every((key) => held.has(key)) && (!best || control.keys.length > best.keys.length)) best = control;
  }
  if (best) return best.action;
  const values = {};
  for (const key of Object.keys(selectors)) {
    const found = selectors[key].map((input) => Number(input.value));
    values[key] = found.length > 1 ? found : found[0];
  }
  for (const key of Object.keys(sliders)) {
    const found = sliders[key].map((slider) => {
      const push = held.has(slider.more) - held.has(slider.less);
      return push > 0 ? slider.high : push < 0 ? slider.low : Number(slider.input.value);
    });
    values[key] = found.length > 1 ? found : found[0];
  }
  const parts = Object.keys(values);
  if (parts.length < layout.parts.length) return null;
  return parts.length > 1 ? values : values[parts[0]];
}

// While the clock stands still, pressing makes a step; letting go, and a slider on its way, do not.
let last = "null";
function hold(press) {
  const action = meant();
  const text = JSON.stringify(action);
  if (text === last && !press) return;
  last = text;
  if (press && now && now.wheel !== "human") order("wheel", { who: "human" });
  order("hold", { action, still: !press });
}

function tap(action) {
  order("wheel", { who: "human" });
  order("hold", { action });
  setTimeout(() => order("hold", { action: null }), now.running ? 150 : 0);
}

const PRESSED = {
  KeyP: () => order("run", { on: !now.running }),
  KeyN: () => order("step"),
  KeyG: () => order("view", { name: VIEWS[(VIEWS.indexOf(now.view) + 1) % VIEWS.length] }),
  KeyM: () => order("wheel", { who: now.wheel === "human" ? "policy" : "human" }),
  KeyL: () => order("wake"),
  KeyB: () => order("line", { by: 1 }),
  KeyR: () => order("restart"),
  KeyJ: () => order("replayed"),
  KeyO: () => order("nothing"),
  KeyK: () => order("save", { what: "actions" }),
  KeyV: () => order("save", { what: "film" }),
  Comma: () => order("go", { by: -1 }),
  Period: () => order("go", { by: 1 }),
};

function keyOf(event) {
  return event.code.startsWith("Key") ? event.code.slice(3) : event.code.startsWith("Digit") ? event.code.slice(5) : event.code;
}

addEventListener("keydown", (event) => {
  if (!now || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.tagName === "INPUT" && event.code.startsWith("Arrow")) return;
  const used = [...layout.controls.flatMap((control) => control.keys), ...layout.sliders.flatMap((one) => [one.less, one.more])];
  if (PRESSED[event.code]) {
    event.preventDefault();
    if (!event.repeat || event.code === "Comma" || event.code === "Period") PRESSED[event.code]();
  } else if (used.includes(keyOf(event))) {
    event.preventDefault();
    held.add(keyOf(event));
    if (!event.repeat) hold(true);
  }
});
addEventListener("keyup", (event) => { held.delete(keyOf(event)); if (layout) hold(false); });
addEventListener("blur", () => { held.clear(); pushed = null; if (layout) hold(false); });

$("run").onclick = PRESSED.KeyP;
$("step").onclick = PRESSED.KeyN;
$("back").onclick = PRESSED.Comma;
$("wheel").onclick = PRESSED.KeyM;
$("view").onclick = PRESSED.KeyG;
$("wake").onclick = PRESSED.KeyL;
$("line").onclick = PRESSED.KeyB;
$("restart").onclick = PRESSED.KeyR;
$("replayed").onclick = PRESSED.KeyJ;
$("nothing").onclick = PRESSED.KeyO;
$("save-actions").onclick = PRESSED.KeyK;
$("save-film").onclick = PRESSED.KeyV;
// The arrows steer again once a slider is let go.
addEventListener("pointerup", (event) => { if (event.target.tagName === "INPUT") event.target.blur(); });
$("timeline").oninput = () => order("go", { at: Number($("timeline").value) });
$("fps").oninput = () => order("speed", { fps: Number($("fps").value) });

connect();
