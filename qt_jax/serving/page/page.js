// Asks the server what its policy does, and shows it. What robots send is shown as text, never as markup.

import { bar, bins, line, lineUnder, number, quantile } from "/charts.js";

const EVERY_MS = 200, AT_MOST_MS = 5000, STALE_S = 3;
const place = (id) => document.getElementById(id);
let latest = null; // the server's last answer
let chosen = ""; // name of the session shown
let drawn = ""; // which frames are shown
let arrangement = ""; // the cameras and action dims that the page's parts were made for

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function copy(name) {
  return place(`${name}-template`).content.firstElementChild.cloneNode(true);
}

function setStatus(name, text) {
  document.body.dataset.state = place("status").dataset.state = name;
  say(place("status"), text);
}

class Away extends Error {
  constructor(status) {
    super(`status ${status}`);
    this.status = status;
  }
}

async function get(path, kind) {
  let reply, body;
  try {
    // The origin alone: the page's own address may hold a key, and fetch refuses such addresses.
    reply = await fetch(new URL(path, location.origin), { cache: "no-store", signal: AbortSignal.timeout(AT_MOST_MS) });
    body = await reply[kind]();
  } catch {
    throw new Away(reply && !reply.ok ? reply.status : 0);
  }
  if (!reply.ok) throw new Away(reply.status);
  return body;
}

function facts({ artefact, fingerprint, training: { step }, decode, control_period_s: period, execute, window, limits: limited, score, server, observation }) {
  const pairs = {
    "trained for": `${step} steps`, ...(fingerprint && { fingerprint }), "decoder": decode, "control period": `${number(1000 * period)} ms (${number(1 / period)} Hz)`,
    "sees the last": `${window} frames`, ...(limited && { "safety limits": "on" }), ...(execute > 1 && { "decides every": `${execute} control steps` }), server,
  };
  say(place("policy"), artefact);
  place("facts").replaceChildren(...Object.entries(pairs).map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    pair.firstChild.textContent = name;
    pair.lastChild.textContent = value;
    return pair;
  }));
  for (const node of document.querySelectorAll(".score-name")) say(node, score);
  say(place("address"), `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}`);
  place("keys").replaceChildren(...Object.entries(observation).map(([key, about]) => {
    const row = document.createElement("tr");
    const note = about.instead_of ? `instead of ${about.instead_of}` : about.description ?? "";
    for (const text of [key, about.dtype, about.shape ? about.shape.join(" × ") : "", note]) row.insertCell().textContent = text;
    return row;
  }));
}

function choices(sessions) {
  const list = place("sessions");
  const names = sessions.map((session) => session.name).sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  if (names.join("\n") !== [...list.options].map((option) => option.value).join("\n")) {
    list.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  list.value = chosen;
  place("choice").hidden = names.length < 2;
}

function arrange(cameras, decision, count) {
  place("cameras").replaceChildren(...Object.entries(cameras).map(([camera, [height, width]]) => {
    const figure = copy("camera"), canvas = figure.querySelector("canvas");
    [canvas.width, canvas.height, canvas.dataset.camera] = [width, height, camera];
    canvas.classList.toggle("small", width < 160);
    canvas.setAttribute("aria-label", `frame of camera ${camera}`);
    say(figure.querySelector("figcaption"), `${camera}, ${width} × ${height}`);
    return figure;
  }));
  place("dims").replaceChildren(...decision.names.slice(0, count).map((name, dim) => {
    const item = copy("dim"), [low, high] = [decision.low[dim], decision.high[dim]];
    say(item.querySelector(".name"), name);
    say(item.querySelector(".low"), number(low));
    say(item.querySelector(".high"), number(high));
    return item;
  }));
}

function decided({ action: values, tokens, scores, behaviour }, { decision, score }) {
  place("behind").hidden = behaviour === null;
  for (const [dim, item] of [...place("dims").children].entries()) {
    const name = decision.names[dim], count = decision.bins[dim];
    const here = scores[dim].slice(0, count), best = here[tokens[dim]], taken = behaviour && behaviour[dim].slice(0, count);
    say(item.querySelector("output"), number(values[dim]));
    say(item.querySelector(".bin"), `bin ${tokens[dim] + 1} of ${count}`);
    bins(item.querySelector(".bins"), here, tokens[dim], `${score} of ${name} over its bins; ${number(best)} in the chosen one`, taken);
    bar(item.querySelector(".bar"), values[dim], decision.low[dim], decision.high[dim], `${name} between its bounds`);
    const present = here.filter((x) => x !== null);
    say(item.querySelector(".best"), `${score} ${number(best)}`);
    say(item.querySelector(".range"), `${number(Math.min(...present), 3)} to ${number(Math.max(...present), 3)}`);
  }
}

function limits({ limited, limited_counts: decisions, limited_commands: commands }) {
  const counted = (counts) => Object.entries(counts).map(([limit, count]) => `${limit} ${count}`).join(", ");
  const now = limited.map(({ limit, what, before, after }) => (before === null ? `${limit}: ${what}` : `${what} by ${limit}, ${number(before)} → ${number(after)}`));
  const [here, there] = [counted(decisions), counted(commands)];
  place("limited").hidden = !here && !there;
  place("limited").classList.toggle("now", now.length > 0);
  say(place("limited"), `Safety limits altered ${now.length ? `this action (${now.join("; ")})` : "no part of this action"}.`
    + (here && ` In this session: ${here}.`) + (there && ` Commands in the robot's loop: ${there}.`));
}

function serving(policies, shadow) {
  place("policies").hidden = policies.length < 2 && shadow === null;
  place("serving").replaceChildren(...policies.map(({ artefact, fingerprint, step, share, episodes, under_way: now, labelled, successes }) => {
    const row = document.createElement("tr");
    const succeeded = labelled ? `${successes} of ${labelled} (${Math.round(100 * successes / labelled)}%)` : "";
    for (const text of [artefact, fingerprint, step === null ? "" : `${step} steps`, `${number(100 * share)}%`, episodes, now, succeeded]) row.insertCell().textContent = text;
    return row;
  }));
  place("shadow").hidden = shadow === null;
  if (shadow === null) return;
  const listed = (found) => Object.entries(found).map(([name, value]) => `${name} ${number(value, 3)}`).join(", ");
  const [differs, dropped] = [listed(shadow.difference), listed(shadow.dropped)];
  say(place("shadow"), `Shadow ${shadow.artefact} (${shadow.fingerprint}), which is never sent: ${number(shadow.compared)} decisions compared`
    + (differs && `, mean |difference| ${differs}`) + (dropped && `; dropped: ${dropped}`) + ".");
}

function times({ step, score_history: scores, ms_history: ms }, { score, control_period_s: period }) {
  const numbers = (id, text) => say(place(id).querySelector(".numbers"), text), plot = (id) => place(id).querySelector(".plot");
  const half = quantile(ms, 0.5), most = quantile(ms, 0.99);
  numbers("score", `${number(scores.at(-1))} at step ${step}; steps ${step - scores.length + 1} to ${step}`);
  numbers("latency", `p50 ${number(half, 3)} ms, p99 ${number(most, 3)} ms`);
  line(plot("score"), scores, `${score} over the last ${scores.length} steps`);
  const limit = `control period ${number(1000 * period)} ms`;
  lineUnder(plot("latency"), ms, 1000 * period, limit, `Milliseconds of the last ${ms.length} requests`);
  place("latency").classList.toggle("late", most > 1000 * period);
}

async function frames({ name, at, cameras }) {
  if (drawn === `${name} ${at}`) return;
  await Promise.all(Object.entries(cameras).map(async ([camera, [height, width]]) => {
    const rgb = new Uint8Array(await get(`/frames/${encodeURIComponent(name)}/${encodeURIComponent(camera)}`, "arrayBuffer"));
    const image = new ImageData(width, height), rgba = image.data.fill(255);
    for (let pixel = 0; pixel < width * height; pixel++) {
      for (let channel = 0; channel < 3; channel++) rgba[4 * pixel + channel] = rgb[3 * pixel + channel];
    }
    for (const canvas of document.querySelectorAll("canvas")) {
      if (canvas.dataset.camera === camera) canvas.getContext("2d").putImageData(image, 0, 0);
    }
  }));
  drawn = `${name} ${at}`;
}

async function refresh() {
  const before = JSON.stringify(latest?.metadata);
  latest = await get(`/state/${encodeURIComponent(chosen)}`, "json");
  const { metadata, policies, shadow, shown, sessions, time } = latest;
  if (JSON.stringify(metadata) !== before) facts(metadata);
  serving(policies, shadow);
  if (place("nobody").hidden === (shown === null)) place("sends").open = shown === null;
  place("nobody").hidden = shown !== null;
  place("panel").hidden = shown === null;
  document.title = `${metadata.artefact}: ${shown ? shown.instruction ?? "acting" : "no robot"}`;
  if (shown === null) {
    chosen = "";
    return setStatus("idle", "no robot connected yet");
  }
  chosen = shown.name;
  choices(sessions);
  const wanted = JSON.stringify([shown.cameras, metadata.decision]);
  if (wanted !== arrangement) {
    arrange(shown.cameras, metadata.decision, shown.action.length);
    [arrangement, drawn] = [wanted, ""];
  }
  const age = time - shown.at;
  say(place("instruction"), shown.instruction === null ? "instruction given as an embedding" : `“${shown.instruction}”`);
  say(place("when"), `step ${shown.step} of its episode, ${age < STALE_S ? "now" : `${Math.round(age)} s ago`}`);
  setStatus(age < STALE_S ? "acting" : "idle", age < STALE_S ? "acting" : "the robot is not asking");
  decided(shown, metadata);
  limits(shown);
  times(shown, metadata);
  await frames(shown);
}

function wait(ms) {
  return new Promise((done) => setTimeout(done, ms));
}

function seen() {
  return new Promise((done) => (document.hidden ? document.addEventListener("visibilitychange", () => done(seen()), { once: true }) : done()));
}

async function watch() {
  for (let pause = EVERY_MS; ; await wait(pause)) {
    await seen();
    try {
      await refresh();
      pause = EVERY_MS;
    } catch (error) {
      if (!(error instanceof Away)) {
        setStatus("away", "this page failed; reload it");
        throw error;
      }
      if (error.status === 404) continue; // the session ended between its numbers and its frame
      pause = Math.min(2 * pause, AT_MOST_MS);
      const refused = error.status === 401 || error.status === 403;
      const again = `the server is away; trying again every ${number(pause / 1000)} s`;
      setStatus("away", refused ? "the server refuses this page: reload it and give the API key" : again);
    }
  }
}

place("sessions").addEventListener("change", (event) => (chosen = event.target.value));
watch();
