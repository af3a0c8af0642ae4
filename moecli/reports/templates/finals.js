/* A row for each arm: its seeds, their mean, and the interval. */

const ROW = 34;

function showFinals() {
  const host = byId("finals-chart");
  const name = `Final value of every arm, ${report.unit}`;
  keepDrawn(host, () => drawRows(host, { name, rows: report.arms.map((arm) => ({ name: arm.name, figure: finalOf(arm) })), show: loss }));
  const other = byId("differences-chart");
  const rows = report.comparisons.map(({ arm, difference }) => ({ name: arm, figure: difference, p: difference.p_value }));
  const differences = { name: `${report.base} − every other arm`, rows, show: apart, hasZero: true };
  keepDrawn(other, () => drawRows(other, differences));
}

/** A chart is {name, rows: [{name, figure: {mean, ci95, per_seed}, p}], show(value), hasZero}. */
function drawRows(host, chart) {
  const near = new Set(nearArms().map((arm) => arm.name));
  const shown = chart.rows.filter((row) => near.has(row.name));
  const values = shown.flatMap(({ figure }) => [figure.mean, ...(figure.ci95 ?? []), ...figure.per_seed]).filter(isNumber);
  if (!values.length) {
    host.append(element("p", { class: "empty" }, "Not known for this comparison."));
    return;
  }
  if (chart.hasZero) values.push(0);
  const width = Math.max(240, Math.min(600, host.clientWidth));
  const letters = Math.min(Math.max(...chart.rows.map((row) => row.name.length)), width < 420 ? 14 : 24);
  const edge = { left: 14 + 6.6 * letters, right: width - 12, top: 6, bottom: 6 + ROW * chart.rows.length };
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const padding = 0.06 * (high - low) || Math.abs(high) * 0.01 || 1;
  const axis = { low: low - padding, high: high + padding, show: chart.show };
  axis.at = (value) => edge.left + ((value - axis.low) / (axis.high - axis.low)) * (edge.right - edge.left);
  const size = { width, height: edge.bottom + 26, viewBox: `0 0 ${width} ${edge.bottom + 26}` };
  const svg = shape("svg", { ...size, role: "img", "aria-label": chart.name, class: "chart", tabindex: 0 });
  for (const tick of ticksOver(low, high, width < 420 ? 3 : 4).filter((value) => isInside(axis, value))) {
    const kind = chart.hasZero && Math.abs(tick) < 1e-12 ? "zero" : "rule";
    svg.append(shape("line", { x1: axis.at(tick), x2: axis.at(tick), y1: edge.top, y2: edge.bottom, class: kind }));
    svg.append(shape("text", { x: axis.at(tick), y: edge.bottom + 14, class: "tick middle" }, written(tick, { maximumFractionDigits: 5 })));
  }
  chart.rows.forEach((row, place) => svg.append(...rowShapes(row, edge.top + ROW * (place + 0.42), axis, edge, letters)));
  host.append(element("div", { class: "scroller" }, svg));
  sayOutside(host, chart.rows.filter(({ figure }) => isNumber(figure.mean) && !isInside(axis, figure.mean)).map(({ name }) => name));
  followRows(svg, chart, edge);
}

const isInside = ({ low, high }, value) => value >= low && value <= high;

/** What lies outside the axis is left out, but for a mean, which is an arrow with its value at the edge. */
function rowShapes({ name, figure }, y, axis, edge, letters) {
  const place = report.arms.findIndex((arm) => arm.name === name);
  const shapes = [shape("text", { x: edge.left - 8, y, class: "tick end" }, withoutMiddle(name, letters))];
  for (const value of Array.from(figure.per_seed).filter((seed) => isNumber(seed) && isInside(axis, seed))) {
    shapes.push(shape("circle", { cx: axis.at(value), cy: y + 9, r: 3, class: "seed" }));
  }
  const colour = armColour(place);
  const [low, high] = figure.ci95 ?? [];
  if (figure.ci95 && low <= axis.high && high >= axis.low) {
    const ends = { x1: axis.at(Math.max(low, axis.low)), x2: axis.at(Math.min(high, axis.high)) };
    shapes.push(shape("line", { ...ends, y1: y, y2: y, stroke: colour, "stroke-width": 3, class: "interval" }));
  }
  if (!isNumber(figure.mean)) return shapes;
  if (isInside(axis, figure.mean)) {
    shapes.push(shape("circle", { cx: axis.at(figure.mean), cy: y, r: 5.5, fill: colour, class: "mean" }));
  } else if (figure.mean > axis.high) {
    shapes.push(shape("text", { x: edge.right - 4, y, color: colour, class: "far end" }, `${axis.show(figure.mean)} ▶`));
  } else {
    shapes.push(shape("text", { x: edge.left + 4, y, color: colour, class: "far" }, `◀ ${axis.show(figure.mean)}`));
  }
  return shapes;
}

function followRows(svg, chart, edge) {
  let place = -1;
  const show = (clientX, clientY) => {
    const { name, figure, p } = chart.rows[place];
    const seeds = Array.from(figure.per_seed, (value, seed) => [`seed ${report.seeds[seed]}`, chart.show(value)]);
    const lines = [["mean", chart.show(figure.mean)], ["95 % interval", ends(figure.ci95, chart.show)], ...seeds.slice(0, MOST_SEEDS)];
    if (p !== undefined) lines.push(["p", significant(p, 2)]);
    showTooltip(clientX, clientY, { title: element("bdi", {}, name), lines });
  };
  const rowAt = (y) => Math.min(chart.rows.length - 1, Math.max(0, Math.floor((y - edge.top) / ROW)));
  svg.addEventListener("pointermove", (event) => {
    place = rowAt(event.clientY - svg.getBoundingClientRect().top);
    show(event.clientX, event.clientY);
  });
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    place = Math.min(chart.rows.length - 1, Math.max(0, place + step));
    const box = svg.getBoundingClientRect();
    show(box.left + edge.left, box.top + edge.top + ROW * (place + 0.5));
  });
  svg.addEventListener("pointerleave", hideTooltip);
  svg.addEventListener("blur", hideTooltip);
}
