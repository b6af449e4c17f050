// Draws small charts as SVG, 100 wide and 40 high; the style sheet stretches them.

const WIDTH = 100, HEIGHT = 40;

function shape(kind, name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
  node.setAttribute("class", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function draw(place, label, shapes) {
  const drawing = shape("svg", "", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  drawing.append(...shapes);
  place.replaceChildren(drawing);
}

function tick(text, side) {
  const node = document.createElement("span");
  node.className = `tick ${side}`;
  node.textContent = text;
  return node;
}

export function number(value, digits = 4) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : "–";
}

export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

/** Draws one bar for each bin, from the low bound to the high one; a null score: the dim has no such bin.
 *  Behind them, as an area of the full height, the bins' probabilities, where there are some. */
export function bins(place, scores, chosen, label, probabilities = null) {
  const present = scores.filter((x) => x !== null);
  const low = Math.min(...present), high = Math.max(...present);
  const wide = WIDTH / scores.length, gap = scores.length > 64 ? 0 : 0.15 * wide;
  const top = (score) => (high > low ? HEIGHT * (0.94 - 0.88 * ((score - low) / (high - low))) : HEIGHT / 2);
  const bar = (score, bin) => (score === null ? "" : `M${bin * wide + gap / 2} ${HEIGHT}V${top(score)}h${wide - gap}V${HEIGHT}z`);
  const one = [shape("rect", "column", { x: chosen * wide, y: 0, width: wide, height: HEIGHT })];
  const [all, best] = [scores.map(bar).join(""), bar(scores[chosen], chosen)];
  const most = probabilities && Math.max(...probabilities);
  const step = (p, bin) => `V${HEIGHT * (1 - p / most)}H${(bin + 1) * wide}`;
  const area = probabilities && `M0 ${HEIGHT}${probabilities.map(step).join("")}V${HEIGHT}z`;
  const outline = (name) => (area ? [shape("path", name, { d: area })] : []);
  const bars = [shape("path", "all", { d: all }), shape("path", "chosen", { d: best })];
  draw(place, label, [...one, ...outline("behind"), ...bars, ...outline("edge")]);
}

/** Draws an action between its bounds, as a bar from 0, or from the bound nearest to 0. */
export function bar(place, value, low, high, label) {
  const at = (x) => (WIDTH * (x - low)) / (high - low);
  const zero = at(Math.min(Math.max(0, low), high)), end = at(value);
  draw(place, label, [
    shape("rect", "fill", { x: Math.min(zero, end), y: 0, width: Math.abs(end - zero), height: HEIGHT }),
    shape("path", "zero", { d: `M${zero} 0V${HEIGHT}` }),
    shape("path", "end", { d: `M${end} 0V${HEIGHT}` }),
  ]);
}

function trace(place, values, low, high, label, limit = null) {
  const y = (value) => HEIGHT * (1 - (value - low) / (high - low));
  const x = (i) => (values.length > 1 ? (WIDTH * i) / (values.length - 1) : WIDTH / 2);
  let path = "", pen = "M";
  for (const [i, value] of values.entries()) {
    if (value !== null) path += `${pen}${x(i)} ${y(value)}${values.length > 1 ? "" : "h0.01"}`;
    pen = value === null ? "M" : "L";
  }
  const limits = limit === null ? [] : [shape("path", "limit", { d: `M0 ${y(limit)}H${WIDTH}` })];
  draw(place, label, [...limits, shape("path", "line", { d: path })]);
  return y(limit) / HEIGHT;
}

/** Draws a line through values, the last at the right; null is a gap. */
export function line(place, values, label) {
  const present = values.filter((x) => x !== null);
  const low = Math.min(...present), high = Math.max(...present), margin = high > low ? 0.1 * (high - low) : 1;
  trace(place, values, low - margin, high + margin, label);
  place.append(tick(number(high), "high"), tick(number(low), "low"));
}

/** Draws values and a limit, from 0 to at most twice the limit; higher values lie on the upper edge. */
export function lineUnder(place, values, limit, name, label) {
  const most = Math.max(...values), high = Math.min(2 * limit, Math.max(1.25 * limit, most));
  const share = trace(place, values.map((x) => Math.min(x, high)), -0.05 * high, 1.05 * high, label, limit);
  const mark = tick(name, "limit");
  mark.style.top = `${100 * share}%`;
  place.append(tick(`${number(high)} ms${most > high ? " and more" : ""}`, "high"), tick("0", "low"), mark);
}
