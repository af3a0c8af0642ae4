/* Loss over tokens, FLOPs or seconds: a line for each arm, with the band of its seeds. */

const OVER = {
  tokens: ["tokens trained on", amount],
  flops: ["training FLOPs", amount],
  seconds: ["seconds of training", (value) => short(value)],
};
const FIRST_PART = 0.2;
// Beside a point; the tables and the CSV files have them all.
const MOST_SEEDS = 10;

function showCurves() {
  const host = byId("curves-chart");
  const redraw = keepDrawn(host, () => drawCurves(host));
  addMenu(byId("curves-controls"), "Over", "over", Object.entries(OVER).map(([key, [name]]) => [key, name]), redraw);
  const parts = [["later", "after the first fifth of training"], ["all", "from the first validation on"]];
  if (nearArms().length < report.arms.length) parts.push(["everything", "anywhere, of arms far from the base too"]);
  addMenu(byId("curves-controls"), "Loss axis fits what comes", "part", parts, redraw);
}

/** The smallest and the largest loss that the axis has to hold: of the base and the arms near it, unless everything is chosen. */
function lossRange() {
  const arms = state.part === "everything" ? report.arms : nearArms();
  const later = ({ curve }) => {
    const start = FIRST_PART * Math.max(...curve.steps);
    return [curve.value, ...curve.per_seed].flatMap((line) => Array.from(line).filter((_value, place) => curve.steps[place] >= start));
  };
  const all = arms.flatMap(({ curve }) => [curve.value, ...curve.per_seed].flatMap((line) => [...line])).filter(isNumber);
  const chosen = state.part === "later" ? arms.flatMap(later).filter(isNumber) : all;
  const high = Math.max(...(chosen.length ? chosen : all));
  return { low: Math.min(...all), high, outside: all.some((value) => value > high) };
}

function drawCurves(host) {
  addArmKey(host);
  const [name, show] = OVER[state.over];
  const range = lossRange();
  if (!Number.isFinite(range.low)) {
    host.append(element("p", { class: "empty" }, "Not known for this comparison."));
    return;
  }
  const far = Math.max(...report.arms.flatMap(({ curve }) => [...curve[state.over]]).filter(isNumber), 0) || 1;
  const y = { ...range, show: loss, tick: (value) => written(value, { maximumFractionDigits: 4 }), count: 8 };
  const frame = drawFrame(host, `Validation loss over ${name}`, { name, low: 0, high: far, show }, y, 400);
  const { left, right, top, bottom } = frame.edge;
  const box = { x: left, y: top, width: right - left, height: bottom - top };
  // A picture in the picture cuts off what lies beyond the axes.
  const inner = shape("svg", { ...box, viewBox: `${box.x} ${box.y} ${box.width} ${box.height}` });
  const lines = report.arms.map((arm, place) => curveShapes(frame, arm, place));
  // The base comes last, on top.
  inner.append(...lines.flatMap(({ bands }) => bands), ...lines.map(({ path }) => path).reverse());
  frame.svg.append(inner);
  if (range.outside) host.append(element("p", { class: "small" }, "The first values lie above the picture."));
  sayOutside(host, markFar(frame, range));
  followCurves(frame, lines.map(({ path }) => path));
}

/** Arrows for arms that end outside, where curves leave room: above at the right, below at the left. Gives the names of these arms. */
function markFar(frame, { low, high }) {
  const { left, right, top, bottom } = frame.edge;
  const ends = report.arms.map((arm, place) => ({ name: arm.name, end: finalOf(arm).mean, color: armColour(place) }));
  const [above, below] = [ends.filter(({ end }) => isNumber(end) && end > high), ends.filter(({ end }) => isNumber(end) && end < low)];
  const text = (arrow, arm) => `${arrow} ${withoutMiddle(arm.name, 24)} ${loss(arm.end)}`;
  const mark = (where, arrow, arm) => shape("text", { ...where, color: arm.color }, text(arrow, arm));
  frame.svg.append(
    ...above.map((arm, place) => mark({ x: right - 4, y: top + 10 + 15 * place, class: "far end" }, "▲", arm)),
    ...below.map((arm, place) => mark({ x: left + 4, y: bottom - 10 - 15 * place, class: "far" }, "▼", arm)),
  );
  return [...above, ...below].map(({ name }) => name);
}

/** The places of the validations whose loss is known. */
function knownPoints(curve) {
  const places = Array.from(curve.value, (_value, point) => point);
  return places.filter((point) => isNumber(curve.value[point]) && isNumber(curve[state.over][point]));
}

function curveShapes(frame, arm, place) {
  const { curve } = arm;
  const x = curve[state.over];
  const at = (value, point) => `${frame.xAt(x[point]).toFixed(1)} ${frame.yAt(value).toFixed(1)}`;
  const known = knownPoints(curve);
  const d = known.map((point, order) => `${order ? "L" : "M"}${at(curve.value[point], point)}`).join("");
  const dashes = { stroke: armColour(place), "stroke-dasharray": armDashes(place) };
  const path = shape("path", { d, class: place ? "line curve" : "line curve strong", ...dashes });
  const band = shape("path", { d: bandOutline(curve, known, at), class: "seeds", fill: armColour(place) });
  return { path, bands: curve.per_seed.length > 1 ? [band] : [] };
}

/** From the smallest to the largest seed: along the top, and back along the bottom. */
function bandOutline(curve, known, at) {
  const bound = (choose) => (point) => at(choose(...curve.per_seed.map((line) => line[point]).filter(isNumber), curve.value[point]), point);
  const outline = [...known.map(bound(Math.max)), ...[...known].reverse().map(bound(Math.min))];
  return outline.length ? `M${outline.join("L")}Z` : "";
}

/** The points of a curve that are in the picture. */
function pointsOf(frame, curve) {
  const x = curve[state.over];
  const points = knownPoints(curve).map((point) => ({ x: frame.xAt(x[point]), y: frame.yAt(curve.value[point]), point }));
  return points.filter(({ y }) => y >= frame.edge.top - 1 && y <= frame.edge.bottom + 1);
}

/** Shows the nearest point of any line; the arrow keys go along a line, and from line to line. */
function followCurves(frame, paths) {
  const dot = shape("circle", { r: 5, class: "dot", visibility: "hidden" });
  frame.svg.append(dot);
  const places = report.arms.map(({ curve }) => pointsOf(frame, curve));
  let [arm, order] = [0, -1];
  const hide = () => {
    dot.setAttribute("visibility", "hidden");
    paths.forEach((path) => path.classList.remove("chosen", "faded"));
    hideTooltip();
  };
  const show = (clientX, clientY) => {
    const found = places[arm][order];
    fill(dot, { cx: found.x, cy: found.y, fill: armColour(arm), visibility: "visible" }, []);
    paths.forEach((path, place) => {
      path.classList.toggle("chosen", place === arm);
      path.classList.toggle("faded", place !== arm);
    });
    showTooltip(clientX, clientY, pointText(report.arms[arm], found.point));
  };
  frame.svg.addEventListener("pointermove", (event) => {
    const box = frame.svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = Infinity;
    places.forEach((points, place) => points.forEach((point, at) => {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < best) [best, arm, order] = [distance, place, at];
    }));
    if (best < Infinity) show(event.clientX, event.clientY);
  });
  frame.svg.addEventListener("keydown", (event) => {
    const [along, across] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
    const there = places.flatMap((points, place) => (points.length ? [place] : []));
    if (!(along || across) || !there.length) return;
    event.preventDefault();
    arm = there[Math.min(there.length - 1, Math.max(0, there.indexOf(arm) + across))];
    order = Math.min(places[arm].length - 1, Math.max(0, order + along));
    const box = frame.svg.getBoundingClientRect();
    show(box.left + places[arm][order].x, box.top + places[arm][order].y);
  });
  frame.svg.addEventListener("pointerleave", hide);
  frame.svg.addEventListener("blur", hide);
}

function pointText(arm, point) {
  const { curve } = arm;
  const seeds = curve.per_seed.map((line, place) => [`seed ${report.seeds[place]}`, loss(line[point])]);
  const lines = [
    [report.unit, loss(curve.value[point])], ...(seeds.length > 1 ? seeds.slice(0, MOST_SEEDS) : []),
    ["step", whole(curve.steps[point])], ["tokens", whole(curve.tokens[point])], ["FLOPs", amount(curve.flops[point])],
    ["seconds", short(curve.seconds[point])],
  ];
  return { title: element("bdi", {}, arm.name), lines };
}
